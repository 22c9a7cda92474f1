"""The tools of the black-box tests: servers, the node under test, and looks at the kernel."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import kazoo.client
import kazoo.exceptions
import kazoo.security
import pytest
import redis
import websocket

ROOT = pathlib.Path(__file__).resolve().parents[2]
CGROVE = pathlib.Path(os.environ.get("CGROVE_BIN", ROOT / "target/release/cgrove"))
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# cgrouparch's document, as its users have it.
README_TREE = json.loads((ROOT / "config/arch_conf.json").read_text())


# An emulated machine is slower than the times that the tests hold on real ones.
PATIENCE = float(os.environ.get("CGROVE_TEST_PATIENCE", "1"))


# Whoever is told to end removes what it made, as after Ctrl-C.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.default_int_handler)

NOT_YET = (AssertionError, LookupError, OSError, ValueError, redis.RedisError, websocket.WebSocketException, kazoo.exceptions.KazooException)


def eventually(check, timeout=10.0, pause=0.02):
    """Calls until the result is true and returns it; an assertion, lookup or server that fails counts as not yet."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = check()
            if result:
                return result
            last = f"returned {result!r}"
        except NOT_YET as e:
            last = repr(e)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {last}")
        time.sleep(pause)


def never(check, during=1.5):
    """True when `check` stays false for a while."""
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        if check():
            return False
        time.sleep(0.05)
    return True


def consecutive(slots):
    """No second is missing between the first and the last."""
    slots = sorted(map(int, slots))
    return slots == list(range(slots[0], slots[-1] + 1))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# -- the kernel -------------------------------------------------------------------------------------------------


def hierarchies():
    """Hierarchies by controller: v1's where it has one, else v2's; `unified` is v2's."""
    out, unified = {}, None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split(" ")[:3]
        point = pathlib.Path(left.split(" ")[4])
        if kind == "cgroup":
            for option in options.split(","):
                out.setdefault(option, point)
        elif kind == "cgroup2":
            unified = unified or point
    if unified:
        listed = (unified / "cgroup.controllers").read_text().split()
        for name in [*listed, "cpuacct", "freezer", "devices", "perf_event", "unified"]:
            out.setdefault(name, unified)
        if "io" in listed:
            out.setdefault("blkio", unified)
    return out


MOUNTS = hierarchies()
UNIFIED = MOUNTS.get("unified")
# Where cpu lives decides how most tests look at the kernel.
V2 = UNIFIED is not None and MOUNTS.get("cpu") == UNIFIED
V1 = not V2
LEAF = "_tasks"
# What a test of one version's own behaviour is marked with; the summary lists what does not apply to a host.
only_v1 = pytest.mark.skipif(V2, reason="v1 only")
only_v2 = pytest.mark.skipif(UNIFIED is None or MOUNTS.get("memory") != UNIFIED, reason="full v2 only")

# What is about sockets and files alone is the same on every kernel: `tests/guest/run --whole` repeats it all the same.
in_guest = "CGROVE_TEST_HOST" in os.environ and os.environ.get("CGROVE_TEST_WHOLE") != "1"
only_here = pytest.mark.skipif(in_guest, reason="the same on every kernel: not repeated in guests")


def once_a_version(*guests):
    """Of what clients see, a kernel of the same cgroup version shows the same: the host has shown v1, Debian 12 v2."""
    again = in_guest and os.environ["CGROVE_TEST_HOST"] in guests
    return pytest.mark.skipif(again, reason="clients saw it on this cgroup version: not repeated on another kernel")


class Shares:
    """A group's share of CPU, comparable with shares on either version."""

    def __init__(self, directory):
        file = directory / ("cpu.weight" if V2 else "cpu.shares")
        self.value = int(file.read_text())

    def __eq__(self, shares):
        return self.value == (min(max((shares * 100 + 512) // 1024, 1), 10000) if V2 else shares)

    def __repr__(self):
        return f"{'weight' if V2 else 'shares'} {self.value}"


def why_no_kernel_tests(required):
    if os.geteuid() != 0:
        return "they need root"
    missing = [c for c in required if c not in MOUNTS]
    if missing:
        return f"no cgroup hierarchy with {', '.join(missing)} is mounted"
    if not os.access(MOUNTS["cpu"], os.W_OK):
        return f"{MOUNTS['cpu']} is not writable"
    return None


def group(controller, parent, path=""):
    return pathlib.Path(f"{MOUNTS[controller]}{parent}{path}")


def read(controller, parent, path, file):
    return (group(controller, parent, path) / file).read_text().strip()


def make(controller, parent, path):
    directory = group(controller, parent, path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def pids(controller, parent, path):
    """A group's processes; on v2 an inner group's are in its leaf."""
    directory = group(controller, parent, path)
    files = [d / "cgroup.procs" for d in (directory, directory / LEAF) if d.is_dir()]
    return [int(pid) for file in files for pid in file.read_text().split()]


def mark(directory):
    try:
        return json.loads(os.getxattr(directory, "user.cgrove"))
    except OSError:
        return None


def real_place(pid, controller="cpu"):
    """A process's path in a hierarchy."""
    return inside(pathlib.Path(f"/proc/{pid}/cgroup").read_text(), controller)


def inside(text, controller):
    """The path in a hierarchy by the text of /proc/PID/cgroup."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") or (number == "0" and MOUNTS[controller] == UNIFIED):
            return path


def place(pid, controller="cpu"):
    """The group that a process belongs to: on v2 an inner group keeps its processes in a leaf."""
    path = real_place(pid, controller)
    return path.removesuffix(f"/{LEAF}") or "/"


def descendants(pid):
    """Direct and indirect children, from /proc."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    out, todo = [], [pid]
    while todo:
        at = todo.pop()
        children = [p for p, up in parents.items() if up == at]
        out += children
        todo += children
    return out


def remove_cgroups(parent):
    """Empties and removes a parent in every hierarchy."""
    assert parent.startswith("/cgrove-test-")
    for mount in set(MOUNTS.values()):
        top = pathlib.Path(f"{mount}{parent}")
        if not top.exists():
            continue
        for directory, _, _ in os.walk(top):
            for name, thawed in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")]:
                if pathlib.Path(directory, name).exists():
                    pathlib.Path(directory, name).write_text(thawed)
        for directory, _, _ in os.walk(top, topdown=False):
            for _ in range(200):
                try:
                    os.rmdir(directory)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    members = "cgroup.procs" if mount == UNIFIED else "tasks"
                    with contextlib.suppress(OSError):
                        for tid in pathlib.Path(directory, members).read_text().split():
                            with contextlib.suppress(OSError):
                                (mount / members).write_text(tid)
                    time.sleep(0.02)


@contextlib.contextmanager
def frozen(process):
    """Stopped meanwhile."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def sweep():
    """Removes what a test made whose process was killed; nobody is in it, and its maker is gone."""
    tops = {top.name for mount in set(MOUNTS.values()) for top in mount.glob("cgrove-test-*")}
    for name in tops:
        maker = re.match(r"cgrove-test-(\d+)", name)
        members = (f.read_text() for mount in set(MOUNTS.values()) for f in mount.glob(f"{name}/**/cgroup.procs"))
        if maker and not os.path.exists(f"/proc/{maker[1]}") and not any(members):
            remove_cgroups(f"/{name}")


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # What a test left frozen cannot die.
    with contextlib.suppress(OSError, KeyError):
        at = pathlib.Path(f"{MOUNTS['freezer']}{real_place(process.pid, 'freezer')}")
        for name, thawed in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")]:
            for directory in [at, at.parent]:
                if (directory / name).exists():
                    (directory / name).write_text(thawed)
    process.wait(30)


# -- servers ----------------------------------------------------------------------------------------------------


class Server:
    process = None

    def wait_port(self, timeout=30):
        def connects():
            assert self.process.poll() is None, f"{type(self).__name__} ended: {self.log.read_text()[-2000:]}"
            with socket.create_connection(("127.0.0.1", self.port), 0.5):
                return True

        deadline = time.monotonic() + timeout
        while True:
            try:
                return connects()
            except OSError:
                assert time.monotonic() < deadline, f"{type(self).__name__} does not listen: {self.log.read_text()[-2000:]}"
                time.sleep(0.05)

    def spawn(self, command):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self, sig=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(sig)
            self.process.wait(20)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def serving(server):
    """Started, and stopped whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


class LocalZooKeeper(Server):
    """Debian's ZooKeeper, standalone."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = self.directory / "log"
        self.config = self.directory / "zoo.cfg"
        self.data = self.directory / "data"
        self.config.write_text(
            f"tickTime=500\ndataDir={self.data}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\nminSessionTimeout=1000\nmaxSessionTimeout=40000\n"
        )

    java = []

    def start(self):
        self.data.mkdir(exist_ok=True)
        jars = "/etc/zookeeper/conf:" + ":".join(str(p) for p in pathlib.Path("/usr/share/java").glob("*.jar"))
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self.spawn(["java", "-Xmx128m", "-XX:+UseSerialGC", *self.java, "-cp", jars, main, str(self.config)])
        self.wait_port()

    def wipe(self):
        shutil.rmtree(self.data)

    host = "127.0.0.1"

    @property
    def hosts(self):
        return f"{self.host}:{self.port}"

    def client(self, auth=("digest", "user:password")):
        client = kazoo.client.KazooClient(hosts=self.hosts, timeout=5 * PATIENCE, auth_data=[auth] if auth else None)
        client.start(30 * PATIENCE)
        return client


class RemoteZooKeeper(LocalZooKeeper):
    """The same outside the guest that the tests run in; tests/guest/run keeps them."""

    def __init__(self, directory):
        made = self.call("new", name="-")
        self.name, self.port = made["name"], made["port"]

    def call(self, what, argument="-", name=None):
        request = urllib.request.Request(f"http://{ZOOKEEPERS}/{name or self.name}/{what}/{argument}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def start(self):
        self.call("start")

    def stop(self, sig=signal.SIGKILL):
        self.call("stop", int(sig))

    def pause(self):
        self.call("pause")

    def resume(self):
        self.call("resume")

    def wipe(self):
        self.call("wipe")

    host = os.environ.get("CGROVE_TEST_ZOOKEEPERS", "").split(":")[0]


ZOOKEEPERS = os.environ.get("CGROVE_TEST_ZOOKEEPERS")
ZooKeeper = RemoteZooKeeper if ZOOKEEPERS else LocalZooKeeper


class Znode:
    """The document's znode of one test, under a digest ACL."""

    def __init__(self, client, server, prefix):
        self.client, self.server, self.prefix = client, server, prefix
        self.path = f"{prefix}/arch_conf"

    def set(self, document):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        if self.client.exists(self.path):
            return self.client.set(self.path, data).version
        acl = [kazoo.security.make_digest_acl("user", "password", all=True)]
        self.client.create(self.path, data, acl=acl, makepath=True)
        return 0


class Redis(Server):
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = self.directory / "log"

    def start(self, *options):
        self.spawn(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory), *options])
        self.wait_port()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self):
        return redis.Redis(port=self.port, socket_timeout=5)


# -- the node under test ----------------------------------------------------------------------------------------


class Node:
    """A configuration, and the cgrove that runs with it."""

    def __init__(self, directory, parent):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.parent = parent
        self.port = free_port()
        self.config = self.directory / "cgrove.toml"
        self.tree = self.directory / "tree.json"
        self.state = self.directory / "state"
        self.log = self.directory / "log"
        self.process = None
        self.sockets = []
        self.configure()

    def configure(self, zookeeper=None, redis=None, redis_settings=None, **sections):
        """Writes the configuration: a file source and memory unless servers are named; sections add settings."""
        settings = {
            "": {"node": "node-1"},
            "tree": {"source": "file", "path": str(self.tree), "state_dir": str(self.state)},
            "cgroup": {"parent": self.parent},
            "tasks": {"interval": "500ms"},
            "server": {"listen": f"127.0.0.1:{self.port}"},
        }
        if zookeeper:
            settings["tree"].update(source="zookeeper")
            hosts, prefix = (zookeeper.server.hosts, zookeeper.prefix) if isinstance(zookeeper, Znode) else zookeeper
            settings["zookeeper"] = {"hosts": hosts, "prefix": prefix, "auth": ["digest:user:password"], "session_timeout": "2s"}
        if redis:
            settings["redis"] = redis if isinstance(redis, dict) else {"url": redis.url, **(redis_settings or {})}
        for name, values in sections.items():
            settings.setdefault("tasks.pid_files" if name == "pid_files" else name, {}).update(values)
        lines = []
        for section, values in settings.items():
            lines += [f"[{section}]"] if section else []
            lines += [f"{json.dumps(k)} = {json.dumps(v)}" for k, v in values.items()]
        self.config.write_text("\n".join(lines) + "\n")
        return self

    def write_tree(self, document):
        text = document if isinstance(document, str) else json.dumps(document)
        temporary = self.directory / "tree.new"
        temporary.write_text(text)
        temporary.rename(self.tree)

    def start(self, ready=True):
        with open(self.log, "ab") as log:
            # It ends with us, whatever ends us.
            command = ["setpriv", "--pdeathsig", "KILL", CGROVE, "run", "--config", self.config]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually(lambda: self.alive() and self.http("/healthz")[0] == 200)
        if ready:
            eventually(lambda: self.alive() and self.http("/readyz")[0] == 200)
        return self

    def alive(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"cgrove ended with {self.process.returncode}: {self.log.read_text()[-3000:]}")
        return True

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.process.wait(20)

    def clean(self):
        for sock in self.sockets:
            with contextlib.suppress(Exception):
                sock.close()
        if self.process and self.process.poll() is None:
            kill_group(self.process)

    def run(self, *arguments, stdin=None, env=None, check=None):
        """One command of the command line; `check` is the expected exit code."""
        command = [str(CGROVE), "--config", str(self.config), *map(str, arguments)]
        environment = {**os.environ, **(env or {})}
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60 * PATIENCE, env=environment)
        if check is not None:
            assert result.returncode == check, f"{arguments}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def json(self, *arguments, check=None):
        return json.loads(self.run(*arguments, "--output", "json", check=check).stdout)

    def http(self, path, headers=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def connect(self, path="/", **options):
        sock = websocket.create_connection(f"ws://127.0.0.1:{self.port}{path}", timeout=10, **options)
        self.sockets.append(sock)
        return sock

    def ask(self, cmd, **args):
        """One request on a connection of its own."""
        sock = websocket.create_connection(f"ws://127.0.0.1:{self.port}/", timeout=10)
        try:
            sock.send(json.dumps({"cmd": cmd, "args": args}))
            return json.loads(sock.recv())
        finally:
            sock.close()

    def status(self):
        return self.ask("get_status")

    # The kernel below this node's parent.
    def group(self, controller, path=""):
        return group(controller, self.parent, path)

    def read(self, controller, path, file):
        return read(controller, self.parent, path, file)

    def make(self, controller, path):
        return make(controller, self.parent, path)

    def shares(self, path):
        return Shares(self.group("cpu", path))

    def cpu_usage(self, path):
        """Nanoseconds of CPU."""
        if V2:
            return int(self.read("cpu", path, "cpu.stat").split()[1]) * 1000
        return int(self.read("cpuacct", path, "cpuacct.usage"))

    def set_shares(self, path, shares):
        """As someone else would."""
        file = "cpu.weight" if V2 else "cpu.shares"
        (self.group("cpu", path) / file).write_text(str(shares))

    def put(self, pid, path, controllers=("cpu", "cpuacct")):
        """Puts a process into a group by hand."""
        for controller in controllers:
            (self.group(controller, path) / "cgroup.procs").write_text(str(pid))

    def pids(self, controller, path):
        return pids(controller, self.parent, path)

    def pid_file(self, name, content, mode=0o644):
        path = self.directory / name
        path.write_text(str(content))
        path.chmod(mode)
        return str(path)


@contextlib.contextmanager
def node_of(directory, parent):
    """A node to be configured and run; what it started and made goes whatever happens."""
    try:
        node = Node(pathlib.Path(directory) / "node", parent)
        try:
            yield node
        finally:
            node.clean()
    finally:
        remove_cgroups(parent)


def cpu_tree(groups):
    """A by-controller document of cpu groups: name -> share, or (share, {children})."""

    def node(value):
        share, children = value if isinstance(value, tuple) else (value, None)
        out = {"conf": {"share": share}}
        if children:
            out["sub_cgroup"] = {name: node(v) for name, v in children.items()}
        return out

    return {"cpu": {"sub_cgroup": {name: node(v) for name, v in groups.items()}}}
