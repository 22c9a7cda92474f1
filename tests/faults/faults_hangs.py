"""What hangs, or never ends, must not hang the daemon."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import time

import kit
from kit import eventually

HUNGFS = pathlib.Path(__file__).parent / "hungfs"
# A hang costs its patience once, a look at most a few seconds of it.
SOON = 5


class HungFs:
    """A file system that serves copies of some files, and stops answering when told."""

    def __init__(self, scene, *files):
        self.point = scene.directory / f"served{len(list(scene.directory.glob('served*')))}"
        self.point.mkdir()
        command = [HUNGFS, self.point, *files]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        # Before the daemon is stopped, whoever waits is woken.
        scene.callback(self.end)
        assert self.process.stdout.readline() == "ready\n"

    def say(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def hang(self):
        self.say("hang")

    def answer(self):
        self.say("answer")

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        subprocess.run(["umount", "-l", self.point], capture_output=True)


def at_work(scene, times=3):
    """Drift is repaired within seconds, and the daemon is well."""
    # The first round's groups are watched a moment after it.
    time.sleep(0.3)
    for turn in range(times):
        scene.node.set_shares("/b", 7 + turn)
        scene.holds(SOON)
    assert scene.node.http("/healthz")[0] == 200


def inside(scene, pid, path):
    return all(kit.place(pid, c) == scene.parent + path for c in {"cpu", "cpuacct"})


def said(scene, *parts):
    """A problem of processes that has all these words."""
    return [p for p in scene.node.status()["tasks"]["problems"] if all(str(part) in p for part in parts)]


def threads(node):
    return len(os.listdir(f"/proc/{node.process.pid}/task"))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def member(scene, *command, **options):
    process = scene.process(*(command or ("sleep", "600")), **options)
    scene.members.add(process.pid)
    return process


def by_group(scene, a=None, b=None):
    """A document of two groups in which something may be said of processes."""
    scene.wanted = {"a": 1000, "b": 500}
    groups = {name: {"knobs": {"cpu.shares": share}} for name, share in scene.wanted.items()}
    return {"groups": {"a": {**groups["a"], **(a or {})}, "b": {**groups["b"], **(b or {})}}, "controllers": ["cpu"]}


# -- pid files


def pid_file(scene, pattern):
    """On a dead mount, by name or by glob: named in status, the next file is read as ever, and threads do not pile up."""
    fs = HungFs(scene)
    fs.hang()
    named = member(scene)
    good = scene.node.pid_file("good.pid", named.pid)
    scene.start(scene.shares(a=100, b=50), pid_files={"a": [f"{fs.point}/{pattern}", good]}, tasks={"interval": "200ms"})
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert eventually(lambda: said(scene, f"{fs.point}/{pattern}", "does not answer"))
    before = threads(scene.node)
    at_work(scene)
    time.sleep(2)
    assert threads(scene.node) <= before + 3, (before, threads(scene.node))


def many_pid_files(scene):
    """Hundreds on the same dead mount cost no more than one."""
    fs = HungFs(scene)
    fs.hang()
    named = member(scene)
    files = [f"{fs.point}/{n}.pid" for n in range(300)] + [scene.node.pid_file("good.pid", named.pid)]
    scene.start(scene.shares(a=100, b=50), pid_files={"a": files})
    eventually(lambda: inside(scene, named.pid, "/a"))
    at_work(scene)


def said_last(scene):
    """A file that answered before its mount died: what it said last counts, until it answers again."""
    named = member(scene)
    fs = HungFs(scene, scene.node.pid_file("x.pid", named.pid))
    scene.start(scene.shares(a=100, b=50), pid_files={"a": f"{fs.point}/*.pid"})
    eventually(lambda: inside(scene, named.pid, "/a"))
    fs.hang()
    assert eventually(lambda: said(scene, "does not answer"))
    scene.node.put(named.pid, "/foreign/inner", ["cpu"] if kit.V2 else ["cpu", "cpuacct"])
    eventually(lambda: inside(scene, named.pid, "/a"), timeout=SOON)
    at_work(scene)
    fs.answer()
    eventually(lambda: not scene.node.status()["tasks"]["problems"], timeout=30)


def endless(scene):
    """`**` in a document: refused, with its place and what to write instead; the one before stays."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()
    document = {"groups": {"a": {"pid_files": ["/**/*.pid"]}}}
    scene.node.write_tree(document)
    scene.refused("$.groups.a.pid_files.0")
    scene.refused("one `*` for each directory")
    checked = scene.node.run("check", scene.node.tree)
    assert checked.returncode == 65 and "pid_files" in checked.stdout + checked.stderr, checked
    at_work(scene)


def endless_setting(scene):
    """The same in `tasks.pid_files`: the configuration is refused, a running daemon keeps its own."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()
    scene.node.configure(pid_files={"a": "/**/*.pid"})
    scene.node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "one `*` for each directory" in scene.node.log.read_text())
    at_work(scene)
    checked = scene.node.run("check")
    assert checked.returncode == 78 and "tasks.pid_files" in checked.stderr, checked


def endless_kept(scene):
    """A document that an older version took is still in force after an upgrade, without that glob."""
    node = scene.node
    scene.start(by_group(scene))
    scene.holds()
    node.stop()
    # The source is away: what is kept decides.
    node.tree.unlink()
    kept = next(iter(node.state.rglob("last-good.json")))
    header, body = kept.read_bytes().split(b"\n", 1)
    document = json.loads(body)
    document["groups"]["a"]["pid_files"] = ["/**/*.pid"]
    body = json.dumps(document).encode()
    header = {**json.loads(header), "digest": hashlib.sha256(body).hexdigest()[:16]}
    kept.write_bytes(json.dumps(header).encode() + b"\n" + body)
    node.set_shares("/b", 9)
    node.start(ready=False)
    scene.holds(SOON)
    at_work(scene, times=2)
    used = cpu_seconds(node.process.pid)
    time.sleep(2)
    assert cpu_seconds(node.process.pid) - used < 1
    assert any("**" in w for w in node.status()["document"]["warnings"]), node.status()["document"]


def many_directories(scene, count):
    """A glob over very many directories: a bounded part is read and watched, and it is said."""
    named = member(scene)
    far = scene.node.directory / "x"
    for n in range(count):
        (far / f"{n:05}").mkdir(parents=True)
    (far / "00000/y.pid").write_text(str(named.pid))
    for n in range(1, count):
        (far / f"{n:05}/y.pid").touch()
    scene.callback(shutil.rmtree, far)
    scene.start(scene.shares(a=100, b=50), pid_files={"a": f"{far}/*/y.pid"})
    assert eventually(lambda: said(scene, far, "not looked at"))
    assert eventually(lambda: said(scene, "are watched"))
    at_work(scene)
    fds = pathlib.Path(f"/proc/{scene.node.process.pid}/fdinfo").iterdir()
    watches = set()
    for fd in fds:
        with contextlib.suppress(OSError):
            watches.update(line for line in fd.read_text().splitlines() if line.startswith("inotify"))
    assert len(watches) < 400, len(watches)


def loops(scene):
    """Links that lead back multiply what a glob means without end: its time is bounded."""
    far = scene.node.directory / "x"
    far.mkdir()
    for n in range(12):
        (far / f"l{n}").symlink_to(far)
    named = member(scene)
    files = [f"{far}/*/*/*/*/*/*/*/*.pid", scene.node.pid_file("good.pid", named.pid)]
    scene.start(scene.shares(a=100, b=50), pid_files={"a": files})
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert eventually(lambda: said(scene, far, "not looked at"))
    at_work(scene)


# -- rules


def program(scene):
    """A program on a dead mount, and a rule that asks for another: nobody waits, and it stays where it is."""
    fs = HungFs(scene, shutil.which("sleep"))
    dead = scene.process(fs.point / "sleep", "600")
    here = kit.real_place(dead.pid)
    other = scene.directory / "worker"
    shutil.copy(shutil.which("sleep"), other)
    found = member(scene, other, "600")
    eventually(lambda: os.readlink(f"/proc/{dead.pid}/exe") == str(fs.point / "sleep"))
    time.sleep(0.3)
    fs.hang()
    # The second rule would take everybody below the directory of whom the first is not certain.
    rules = {"processes": [{"exe": str(other)}]}
    scene.start(by_group(scene, a=rules, b={"processes": [{"exe": f"{fs.point}/*"}]}), tasks={"interval": "200ms"})
    eventually(lambda: inside(scene, found.pid, "/a"))
    assert eventually(lambda: said(scene, dead.pid, "stays where it is"))
    at_work(scene)
    assert kit.real_place(dead.pid) == here
    assert "for lack of an answer" in scene.node.run("why", dead.pid).stdout
    fs.answer()
    scene.members.add(dead.pid)
    eventually(lambda: inside(scene, dead.pid, "/b"), timeout=30)


LOCKED = """
import mmap, os, sys, threading, time
served = open(sys.argv[1], "rb")
window = mmap.mmap(served.fileno(), 4096, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
print("mapped", flush=True)
sys.stdin.readline()
r, w = os.pipe()
# Waits for the page with the process's memory locked, and somebody else waits to change it.
threading.Thread(target=os.write, args=(w, window), daemon=True).start()
time.sleep(0.5)
print("locked", flush=True)
while True:
    mmap.mmap(-1, 1 << 20)
"""


def locked(scene):
    """A process whose arguments nobody can read to the end, with the file system that keeps it waiting."""
    page, script = scene.directory / "page", scene.directory / "locked.py"
    page.write_bytes(b"x" * 4096)
    script.write_text(LOCKED)
    # The kernel gives the lock back while it reads a page, but for the last try; which one that is depends on the kernel.
    for failing in (2, 1, 3, 0):
        fs = HungFs(scene, page)
        dead = scene.process("/usr/bin/python3", script, fs.point / "page", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        # Before it is killed, it is woken.
        scene.callback(fs.end)
        assert dead.stdout.readline() == "mapped\n"
        fs.say(f"fail {failing}")
        dead.stdin.write("\n")
        dead.stdin.flush()
        assert dead.stdout.readline() == "locked\n"
        time.sleep(0.3)
        reader = subprocess.Popen(["cat", f"/proc/{dead.pid}/cmdline"], stdout=subprocess.DEVNULL)
        try:
            reader.wait(0.5)
        except subprocess.TimeoutExpired:
            return dead
        finally:
            reader.kill()
            reader.wait(10)
    raise AssertionError("this kernel lets everybody read the arguments")


def command_line(scene):
    """A process keeps its own memory locked, so that whoever reads its arguments waits for ever: nobody waits with it."""
    dead = locked(scene)
    found = member(scene, "sleep", "600.125")
    scene.start(by_group(scene, a={"processes": [{"cmdline": "sleep 600.125"}]}), tasks={"interval": "200ms"})
    eventually(lambda: inside(scene, found.pid, "/a"))
    assert eventually(lambda: said(scene, dead.pid, "stays where it is"))
    at_work(scene)


def users(scene):
    """The user database hangs: no rule is followed, and everything else goes on."""
    node = scene.node
    named = member(scene)
    document = by_group(scene, a={"processes": [{"user": "daemon", "exe": "/nowhere"}], "pid_files": [node.pid_file("good.pid", named.pid)]})
    node.write_tree(document)
    fs = HungFs(scene, "/etc/passwd")
    # In mounts of its own, the daemon's user database is on the file system that hangs.
    script = node.directory / "inside"
    script.write_text(f"#!/bin/sh\nmount --bind {fs.point}/passwd /etc/passwd && exec {kit.CGROVE} run --config {node.config} >>{node.log} 2>&1\n")
    node.process = subprocess.Popen(["unshare", "--mount", "sh", script], start_new_session=True)
    eventually(lambda: inside(scene, named.pid, "/a"))
    fs.hang()
    assert eventually(lambda: said(scene, "daemon", "user database does not answer"))
    at_work(scene)


def systemctl(scene):
    """systemctl hangs each time: what does not need it is repaired as soon as ever."""
    node = scene.node
    (node.directory / "bin").mkdir()
    fake = node.directory / "bin/systemctl"
    fake.write_text("#!/bin/sh\nexec sleep 600\n")
    fake.chmod(0o755)
    named = member(scene)
    document = by_group(scene, a={"processes": [{"unit": "nginx.service"}], "pid_files": [node.pid_file("good.pid", named.pid)]})
    node.write_tree(document)
    script = node.directory / "inside"
    script.write_text(
        f"#!/bin/sh\nmount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && PATH={node.directory}/bin:$PATH\n"
        f"exec {kit.CGROVE} run --config {node.config} >>{node.log} 2>&1\n"
    )
    node.process = subprocess.Popen(["unshare", "--mount", "sh", script], start_new_session=True)
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert eventually(lambda: said(scene, "systemctl"))
    slowest = 0
    for turn in range(5):
        began = time.monotonic()
        node.set_shares("/b", 7 + turn)
        scene.holds(10)
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.4)
    assert slowest < 4 * kit.PATIENCE, slowest


# -- the source


def document(scene):
    """The document's file is on a dead mount: said, the one in force stays, and it is read again when it answers."""
    node = scene.node
    node.write_tree(scene.shares(a=100, b=50))
    fs = HungFs(scene, node.tree)
    scene.start(tree={"path": str(fs.point / "tree.json")})
    scene.holds()
    fs.hang()
    eventually(lambda: "does not answer" in (node.status()["source"].get("error") or ""), timeout=20)
    at_work(scene)
    assert node.http("/readyz")[0] == 503
    fs.answer()
    eventually(lambda: node.status()["source"]["connected"], timeout=30)


# -- the kernel


def limit():
    """The file of a memory limit, and the knob."""
    v2 = kit.MOUNTS["memory"] == kit.UNIFIED
    return "memory.max" if v2 else "memory.limit_in_bytes"


@contextlib.contextmanager
def traced(scene, *options):
    """The daemon's system calls, seen and changed."""
    log, pid = scene.directory / "strace", scene.node.process.pid
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-xx", "-o", log, "-p", str(pid), *options], stderr=subprocess.PIPE, start_new_session=True)
    try:
        eventually(lambda: "TracerPid:\t0" not in pathlib.Path(f"/proc/{pid}/status").read_text())
        # Every thread.
        time.sleep(0.3)
        yield log
    finally:
        # It lets go, and what it held goes on.
        tracer.send_signal(signal.SIGTERM)
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait(20)


def slowed(scene, file):
    """Whoever of the daemon writes to this file is kept in the system call for two minutes."""
    return traced(scene, "-P", str(file), "-e", "trace=write", "-e", "inject=write:delay_enter=120s")


def memory_tree(scene, slow):
    groups = by_group(scene)
    groups["controllers"] = ["cpu", "memory"]
    groups["groups"]["slow"] = {"knobs": {"memory.max": slow}, "allow_reclaim": True}
    return groups


def limited(scene):
    """A group with a memory limit, and the limit's file."""
    scene.start(memory_tree(scene, "200M"))
    file = scene.node.group("memory", "/slow") / limit()
    eventually(lambda: file.read_text().strip() == str(200 << 20))
    return file


def slow_limit(scene):
    """The kernel is long at a memory limit: said, everything else goes on, and the limit is there in the end."""
    node = scene.node
    file = limited(scene)
    with slowed(scene, file):
        node.write_tree(memory_tree(scene, "100M"))
        reclaiming = lambda: [n for n in node.status()["plan"]["notes"] if n["group"] == "/slow" and "still reclaiming" in n["text"]]
        assert eventually(reclaiming)
        at_work(scene)
        assert reclaiming() and not node.status()["plan"]["failures"]
    eventually(lambda: file.read_text().strip() == str(100 << 20))
    eventually(lambda: not reclaiming(), timeout=20)


def slow_and_gone(scene):
    """A group that leaves while its limit is written waits until that ended, and nobody waits with it."""
    node = scene.node
    scene.start(memory_tree(scene, "200M"))
    directory = node.group("memory", "/slow")
    eventually(lambda: (directory / limit()).read_text().strip() == str(200 << 20))
    with slowed(scene, directory / limit()):
        node.write_tree(memory_tree(scene, "100M"))
        eventually(lambda: [n for n in node.status()["plan"]["notes"] if "still reclaiming" in n["text"]])
        without = memory_tree(scene, "100M")
        del without["groups"]["slow"]
        node.write_tree(without)
        assert eventually(lambda: [n for n in node.status()["plan"]["notes"] if "not removed yet" in n["text"]])
        at_work(scene)
        assert directory.exists()
    eventually(lambda: not directory.exists(), timeout=20)


def slow_stop(scene):
    """TERM while the kernel is at a limit: the daemon ends as soon as ever."""
    node = scene.node
    file = limited(scene)
    with slowed(scene, file):
        node.write_tree(memory_tree(scene, "100M"))
        eventually(lambda: [n for n in node.status()["plan"]["notes"] if "still reclaiming" in n["text"]])
        began = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopped; the groups stay" in node.log.read_text(), timeout=10)
        assert time.monotonic() - began < 8 * kit.PATIENCE
    node.process.wait(20)


CHURN = """
import mmap, os, sys
print("here", flush=True)
sys.stdin.readline()
# Anonymous memory that nobody may take, and file pages that come back as fast as they are taken.
held = mmap.mmap(-1, 30 << 20)
for at in range(0, len(held), 4096):
    held[at] = 1
with open(sys.argv[1], "wb") as file:
    for _ in range(200):
        file.write(os.urandom(1 << 20))
print("touches", flush=True)
while True:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""


def touched(scene):
    """A group keeps touching its memory while its limit is lowered below it: the others are repaired meanwhile."""
    node = scene.node
    churn = member(scene, "/usr/bin/python3", "-c", CHURN, scene.directory / "large", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert churn.stdout.readline() == "here\n"
    pid = node.pid_file("churn.pid", churn.pid)

    def tree(most):
        document = memory_tree(scene, most)
        document["groups"]["slow"]["pid_files"] = [pid]
        return document

    scene.start(tree("400M"))
    group = node.group("memory", "/slow")
    eventually(lambda: str(churn.pid) in (group / "cgroup.procs").read_text())
    churn.stdin.write("\n")
    churn.stdin.flush()
    assert churn.stdout.readline() == "touches\n"
    used = "memory.current" if limit() == "memory.max" else "memory.usage_in_bytes"
    for most in (60, 400, 50):
        if most < 400:
            eventually(lambda: int((group / used).read_text()) > 100 << 20, timeout=30)
        node.write_tree(tree(f"{most}M"))
        at_work(scene, times=2)
        eventually(lambda: int((group / limit()).read_text()) == most << 20, timeout=30)


def stalled(scene):
    """A write that hangs for good: within half a minute /healthz says for how long and in which file."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()
    file = scene.node.group("cpu", "/b") / ("cpu.weight" if kit.V2 else "cpu.shares")
    with slowed(scene, file):
        began = time.monotonic()
        scene.node.set_shares("/b", 9)
        told = eventually(lambda: (lambda code, text: code != 200 and text)(*scene.node.http("/healthz")), timeout=30)
        assert time.monotonic() - began < 30 * kit.PATIENCE
        assert f"in write {file}" in told and "worker" in told, told
    eventually(lambda: scene.node.http("/healthz")[0] == 200)
    scene.holds()


def unmade(scene):
    """A group cannot be made, for good: said once, nothing below it is tried, and the tries become rare."""
    node = scene.node
    scene.start(scene.shares(a=100, b=50), cgroup={"resync": "120s"})
    scene.holds()
    names = [f"g{n}" for n in range(40)]
    with refusing_mkdir(scene):
        node.write_tree(kit.cpu_tree({"a": 100, "b": 50, **{n: (70, {"inner": 5}) for n in names}}))
        failures = eventually(lambda: node.status()["plan"]["failures"], timeout=15)
        hierarchies = {f["hierarchy"] for f in failures}
        assert len(failures) == len(names) * len(hierarchies) and all("mkdir" in f["error"] for f in failures), failures[:3]
        before = node.status()["plan"]["rounds"]
        time.sleep(6)
        rounds = node.status()["plan"]["rounds"] - before
        assert rounds <= 3, rounds
        at_work(scene)
    scene.wanted.update({n: 70 for n in names})
    node.set_shares("/b", 9)
    scene.holds(15)


@contextlib.contextmanager
def refusing_mkdir(scene):
    """From now on every mkdir of the daemon fails; drift is repaired all the same."""
    if kit.V2:
        file = scene.node.group("cpu") / "cgroup.max.descendants"
        count = sum(d.is_dir() for d in scene.node.group("cpu").rglob("*"))
        file.write_text(str(count))
        try:
            yield
        finally:
            file.write_text("max")
        return
    with traced(scene, "-e", "trace=mkdir,mkdirat", "-e", "inject=mkdir,mkdirat:error=ENOSPC"):
        yield


# -- the kernel's process events


def ignored(scene):
    """Whoever listens to the kernel's process events says that he stopped: else it tells nobody for ever."""
    node = scene.node
    scene.start(scene.shares(a=100, b=50), tasks={"proc_events": True})
    scene.holds()
    with traced(scene, "-e", "trace=sendto") as log:
        node.stop()
    # To the connector: four bytes, PROC_CN_MCAST_IGNORE.
    told = [line for line in log.read_text().splitlines() if r"\x04\x00\x00\x00\x02\x00\x00\x00" in line]
    assert told, log.read_text()


def flood(scene):
    """Processes come and go as fast as they can: nobody reads only that, and what concerns us is seen."""
    node = scene.node
    code = "import os\nwhile True:\n    pid = os.fork()\n    if pid == 0: os.execv('/bin/true', ['true'])\n    os.waitpid(pid, 0)"
    for _ in range(4):
        scene.process("/usr/bin/python3", "-c", code)
    other = scene.directory / "worker"
    shutil.copy(shutil.which("sleep"), other)
    scene.start(by_group(scene, a={"processes": [{"exe": str(other)}]}), tasks={"proc_events": True, "interval": "60s"})
    time.sleep(1)
    used = cpu_seconds(node.process.pid)
    time.sleep(3)
    assert cpu_seconds(node.process.pid) - used < 2
    found = member(scene, other, "600")
    eventually(lambda: inside(scene, found.pid, "/a"), timeout=10)
    at_work(scene)


def forged(scene):
    """Another process sends to our socket what only the kernel tells: it makes nobody look."""
    node = scene.node
    other = scene.directory / "worker"
    shutil.copy(shutil.which("sleep"), other)
    found = member(scene, other, "600")
    scene.start(by_group(scene, a={"processes": [{"exe": str(other)}]}), tasks={"proc_events": True, "interval": "60s"})
    eventually(lambda: inside(scene, found.pid, "/a"))
    ports = [line.split() for line in pathlib.Path("/proc/net/netlink").read_text().splitlines()[1:]]
    sockets = {os.readlink(fd).removeprefix("socket:[").rstrip("]") for fd in pathlib.Path(f"/proc/{node.process.pid}/fd").iterdir()}
    port = next(int(fields[2]) for fields in ports if fields[1] == "11" and fields[9] in sockets)
    # An exec of the process that a rule places: struct nlmsghdr, cn_msg and proc_event.
    event = struct.pack("=IIQIIQ", 2, 0, 0, found.pid, found.pid, 0)
    message = struct.pack("=IHHII", 36 + len(event), 3, 0, 0, 0) + struct.pack("=IIIIHH", 1, 1, 0, 0, len(event), 0) + event
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11) as sender:
        # Where so much begins on this machine that the kernel's own announcements are lost, it looks for that reason.
        for _ in range(4):
            time.sleep(1)
            node.put(found.pid, "/foreign/inner", ["cpu"] if kit.V2 else ["cpu", "cpuacct"])
            for _ in range(20):
                sender.sendto(message, socket.MSG_DONTWAIT, (port, 0))
                time.sleep(0.05)
            if not inside(scene, found.pid, "/a"):
                break
        else:
            raise AssertionError("it looked each time")
    # What the kernel tells is heard.
    again = member(scene, other, "600")
    eventually(lambda: inside(scene, again.pid, "/a") and inside(scene, found.pid, "/a"))
