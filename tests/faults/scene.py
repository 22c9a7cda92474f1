"""A node with neighbours: groups and processes of others beside ours, which no fault may touch."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess

import hosts
import kit
from kit import cpu_tree, eventually

COUNTER = itertools.count()
# A file of a foreign group that cgrove might write, were it wrong.
WITNESS = ("cgroup.max.depth", "7") if kit.V2 else ("cpu.shares", "333")
CONTROLLERS = ["cpu"] if kit.V2 else ["cpu", "cpuacct"]


class Scene(contextlib.ExitStack):
    def __init__(self, directory):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.parent = f"/cgrove-test-{os.getpid()}-f{next(COUNTER)}"
        self.why = []
        # What the document in force says, and the processes that it places.
        self.wanted = {}
        self.members = set()

    def __enter__(self):
        super().__enter__()
        try:
            self.set()
        except BaseException:
            # What was made so far goes as well.
            self.close()
            raise
        return self

    def set(self):
        self.callback(kit.remove_cgroups, self.parent)
        self.node = kit.Node(self.directory / "node", self.parent)
        self.callback(self.node.clean)
        self.foreign = {}
        for controller in CONTROLLERS:
            for path in ("/foreign", "/foreign/inner"):
                directory = self.node.make(controller, path)
                if (directory / WITNESS[0]).exists() and controller == "cpu":
                    (directory / WITNESS[0]).write_text(WITNESS[1])
                self.foreign[directory] = directory.stat().st_ino
        self.bystanders = {}
        for path in ("/foreign/inner", None):
            bystander = self.process("sleep", "infinity")
            if path:
                self.node.put(bystander.pid, path, CONTROLLERS)
            self.bystanders[bystander.pid] = kit.real_place(bystander.pid)

    # -- what a fault needs

    def process(self, *command, **options):
        process = subprocess.Popen(list(map(str, command)), start_new_session=True, **options)
        self.callback(kit.kill_group, process)
        return process

    def zookeeper(self, name="zookeeper", document=None, **options):
        """A server of its own, and the document's znode."""
        server = self.enter_context(kit.serving(kit.ZooKeeper(self.directory / name)))
        return self.znode(server) if document is None else (lambda z: (z.set(document), z)[1])(self.znode(server))

    def znode(self, server):
        client = server.client()
        self.callback(client.close)
        self.callback(client.stop)
        return kit.Znode(client, server, "/faults")

    def redis(self, *options):
        server = kit.Redis(self.directory / f"redis{next(COUNTER)}")
        self.callback(server.stop)
        server.start(*options)
        return server

    def other_host(self):
        return self.enter_context(hosts.other_host())

    def shares(self, **groups):
        """A document of cpu groups that is in force from now on."""
        self.wanted = dict(groups)
        return cpu_tree(groups)

    def holds(self, timeout=10.0):
        """The kernel's tree is as the document in force says."""
        eventually(self.is_so, timeout=timeout)

    def is_so(self):
        return all(self.node.shares(f"/{name}") == share for name, share in self.wanted.items())

    def start(self, document=None, ready=True, **settings):
        """A daemon; with a document, out of a file."""
        if document is not None:
            self.node.write_tree(document)
        if settings or not self.node.config.exists():
            self.node.configure(**settings)
        self.node.start(ready=ready)
        return self.node

    def refused(self, why):
        eventually(lambda: why in (self.node.status()["refused"] or {}).get("error", ""))

    def restart(self, sig=signal.SIGTERM, ready=True):
        self.node.stop(sig)
        self.node.start(ready=ready)

    def slots(self):
        return sorted(map(int, self.node.ask("show_account", nr_slot=300)))

    # -- the three zeros

    def zeros(self):
        """Owned groups lost, foreign groups touched, wrong processes moved."""
        lost = [name for name, share in self.wanted.items() if not self.has(name, share)]
        touched = [str(d) for d, inode in self.foreign.items() if not self.untouched(d, inode)]
        moved = [pid for pid, at in self.bystanders.items() if kit.real_place(pid) != at]
        strangers = [pid for name in self.wanted for pid in self.node.pids("cpu", f"/{name}") if not self.belongs(pid)]
        self.why = {"lost": lost, "touched": touched, "moved": moved + strangers}
        return len(lost), len(touched), len(moved) + len(strangers)

    def has(self, name, share):
        try:
            eventually(lambda: self.node.shares(f"/{name}") == share, timeout=5)
            return True
        except AssertionError:
            return False

    @staticmethod
    def untouched(directory, inode):
        with contextlib.suppress(OSError):
            mark = kit.mark(directory)
            told = "cpuacct" in directory.parts or (directory / WITNESS[0]).read_text().strip() == WITNESS[1]
            return directory.stat().st_ino == inode and told and mark is None
        return False

    def belongs(self, pid):
        """Named by us, or born of one that is."""
        while pid > 1:
            if pid in self.members:
                return True
            try:
                pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                return True
        return False


def kept(node):
    """The header of the last good document."""
    return json.loads((node.state / "last-good.json").read_bytes().split(b"\n", 1)[0])
