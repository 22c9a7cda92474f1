"""Pid files that lie, processes that fork, die and come back under another's number."""

import json
import os
import pathlib
import subprocess
import time

import kit
from kit import cpu_tree, eventually, place


def inside(scene, pid, path):
    return all(place(pid, c) == scene.parent + path for c in {"cpu", "cpuacct"})


def file_of(scene, victim, what):
    """A pid file that must not be believed; its path."""
    node, path = scene.node, scene.node.directory / "x.pid"
    contents = {
        "empty": "", "garbage": "hello\n", "zero": "0\n", "one": "1\n", "negative": f"-{victim.pid}\n", "plus": f"+{victim.pid}\n",
        "hex": hex(victim.pid), "nul": f"{victim.pid}\0\n", "huge": "9" * 5000, "blank-first-line": f"\n{victim.pid}\n",
        "letters-behind": f"{victim.pid}x\n", "beyond": str(1 << 40), "kernel-thread": "2\n",
    }
    if what in contents:
        return node.pid_file("x.pid", contents[what])
    match what:
        case "missing":
            return str(path)
        case "world-writable":
            return node.pid_file("x.pid", victim.pid, mode=0o666)
        case "group-writable":
            node.pid_file("x.pid", victim.pid, mode=0o664)
            os.chown(path, 0, 65534)
        case "foreign-owner":
            node.pid_file("x.pid", victim.pid)
            os.chown(path, 65534, 65534)
        case "symlink":
            os.symlink(node.pid_file("target.pid", victim.pid), path)
        case "users-directory" | "users-link" | "open-directory":
            return in_directory(node.directory / "theirs", victim, what)
        case "fifo":
            os.mkfifo(path)
        case "device":
            return "/dev/zero"
        case "directory":
            return str(node.directory)
        case _:
            raise KeyError(what)
    return str(path)


def in_directory(theirs, victim, what):
    """Root's own pid file, where others decide what the path means."""
    root_s = theirs / "root-s"
    root_s.mkdir(parents=True)
    (root_s / "x.pid").write_text(f"{victim.pid}\n")
    match what:
        case "users-directory":
            os.chown(theirs, 65534, 65534)
        case "open-directory":
            theirs.chmod(0o777)
        case "users-link":
            (theirs / "link").symlink_to(root_s)
            os.lchown(theirs / "link", 65534, 65534)
            return str(theirs / "link/x.pid")
    return str(root_s / "x.pid")


def behind_a_link(scene):
    """A glob shows nothing of what lies behind a user's link, and root's links are followed as ever."""
    victim, named = scene.process("sleep", "600"), scene.process("sleep", "600")
    scene.members.add(named.pid)
    at = kit.real_place(victim.pid)
    hidden = scene.node.directory / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "customer.pid").write_text("hello\n")
    (hidden / "x.pid").write_text(f"{victim.pid}\n")
    spool, real = scene.node.directory / "spool", scene.node.directory / "real"
    spool.mkdir()
    real.mkdir()
    (real / "y.pid").write_text(f"{named.pid}\n")
    (spool / "a").symlink_to(hidden)
    os.lchown(spool / "a", 65534, 65534)
    (spool / "b").symlink_to(real)
    scene.start(scene.shares(a=100), pid_files={"a": [f"{spool}/*/*.pid"]})
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert kit.real_place(victim.pid) == at and "customer" not in json.dumps(scene.node.status())


def filled_directory(scene):
    """A user fills his directory with pid files: those in the other directories of the pattern still count."""
    named = scene.process("sleep", "600")
    scene.members.add(named.pid)
    spool = scene.node.directory / "spool"
    for name, count in (("a", 1200), ("b", 1)):
        (spool / name).mkdir(parents=True)
        for n in range(count):
            (spool / name / f"{n}.pid").write_text("hello\n" if name == "a" else f"{named.pid}\n")
    scene.start(scene.shares(a=100), pid_files={"a": [f"{spool}/*/*.pid"]})
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert any("1,000 files match" in p for p in scene.node.status()["tasks"]["problems"])


def set_user_id(scene):
    """A set-user-ID program has the arguments of whoever began it: a rule for root's command lines is not about it."""
    line = "exec -a 'job --maintenance' "
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    theirs = scene.process(*user, "bash", "-c", line + "su root", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: "maintenance" in pathlib.Path(f"/proc/{theirs.pid}/cmdline").read_text() and pathlib.Path(f"/proc/{theirs.pid}").stat().st_uid == 0)
    at = kit.real_place(theirs.pid)
    roots = scene.process("bash", "-c", line + "sleep 600")
    scene.members.add(roots.pid)
    rule = {"user": "root", "cmdline": "job --maintenance*"}
    scene.start({"controllers": ["cpu", "cpuacct"], "groups": {"a": {"knobs": {"cpu.weight": 10}, "processes": [rule]}}})
    eventually(lambda: inside(scene, roots.pid, "/a"))
    assert kit.real_place(theirs.pid) == at and theirs.poll() is None


def not_believed(scene, what):
    """Counted and named, nobody is moved, and the next file is read as ever."""
    victim = scene.process("sleep", "600")
    at = kit.real_place(victim.pid)
    named = scene.process("sleep", "600")
    scene.members.add(named.pid)
    bad = file_of(scene, victim, what)
    scene.start(scene.shares(a=100), pid_files={"a": [bad, scene.node.pid_file("good.pid", named.pid)]})
    problems = eventually(lambda: scene.node.status()["tasks"]["problems"])
    assert [p for p in problems if p.startswith(f"{bad}: ")] and len(problems) == 1, problems
    eventually(lambda: inside(scene, named.pid, "/a"))
    assert kit.real_place(victim.pid) == at


def own_pid(scene):
    scene.start(scene.shares(a=100))
    path = scene.node.pid_file("x.pid", scene.node.process.pid)
    at = kit.real_place(scene.node.process.pid)
    scene.node.configure(pid_files={"a": path})
    scene.node.process.send_signal(1)
    eventually(lambda: any("the daemon itself" in p for p in scene.node.status()["tasks"]["problems"]))
    assert kit.real_place(scene.node.process.pid) == at


def believed(scene, text):
    """A trailing space or more lines are no harm."""
    named = scene.process("sleep", "600")
    scene.members.add(named.pid)
    path = scene.node.pid_file("x.pid", text.replace("PID", str(named.pid)))
    scene.start(scene.shares(a=100), pid_files={"a": path})
    eventually(lambda: inside(scene, named.pid, "/a"))


CHURN = """
import os, subprocess, sys, time
here, group = sys.argv[1:]
end = time.time() + 10
wrong = rounds = reused = 0
numbers = set()
# The file names one that dies; where numbers are few, its number is soon somebody else's.
while time.time() < end:
    named = subprocess.Popen(["sleep", "0.05"])
    with open(here + "/x.new", "w") as f:
        f.write(str(named.pid))
    os.rename(here + "/x.new", here + "/x.pid")
    if rounds % 2:
        named.wait()
        os.unlink(here + "/x.pid")
    else:
        os.unlink(here + "/x.pid")
        named.wait()
    rounds += 1
    numbers.add(named.pid)
    others = [subprocess.Popen(["sleep", "0.15"]) for _ in range(40)]
    reused += sum(o.pid in numbers for o in others)
    time.sleep(0.1)
    for other in others:
        try:
            wrong += group in open(f"/proc/{other.pid}/cgroup").read()
        except OSError:
            pass
    for other in others:
        other.wait()
print(wrong, rounds, reused)
"""


def reused(scene):
    """Few numbers, much churn: only the process that the file names is ever in the group."""
    node = scene.node
    node.write_tree(scene.shares(a=100))
    node.configure(tasks={"interval": "100ms"}, pid_files={"a": str(node.directory / "x.pid")})
    # A pid namespace has its own pid_max since Linux 6.14.
    few = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 14)
    churn, script = node.directory / "churn.py", node.directory / "inside"
    churn.write_text(CHURN)
    script.write_text(f"""#!/bin/sh
{'echo 450 >/proc/sys/kernel/pid_max || exit 9' if few else ''}
{kit.CGROVE} run --config {node.config} >>{node.log} 2>&1 &
/usr/bin/python3 {churn} {node.directory} {scene.parent}/a >{node.directory}/churned
touch {node.directory}/over
wait
""")
    own = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"] if few else []
    node.process = subprocess.Popen([*own, "sh", script], start_new_session=True)
    eventually(lambda: (node.directory / "over").exists(), timeout=60)
    wrong, rounds, again = map(int, (node.directory / "churned").read_text().split())
    assert wrong == 0 and rounds > 10 / kit.PATIENCE and (again > 0 or not few), (wrong, rounds, again)
    scene.holds()


def fork_storm(scene):
    """A family that forks while it is moved ends up inside, every member of it."""
    code = "import os, time\nend = time.time() + 6\nwhile time.time() < end:\n    if os.fork() == 0:\n        time.sleep(2)\n        os._exit(0)\n    try:\n        while os.waitpid(-1, os.WNOHANG)[0]: pass\n    except ChildProcessError: pass\n    time.sleep(0.004)\ntime.sleep(600)"
    family = [scene.process("/usr/bin/python3", "-c", code) for _ in range(3)]
    scene.members.update(p.pid for p in family)
    # Dozens are there to be moved, and more are born meanwhile.
    eventually(lambda: all(len(kit.descendants(p.pid)) >= 20 for p in family))
    files = [scene.node.pid_file(f"{p.pid}.pid", p.pid) for p in family]
    scene.start(scene.shares(a=100), pid_files={"a": files})
    for member in family:
        eventually(lambda: inside(scene, member.pid, "/a"))

    def all_inside():
        children = [p for member in family for p in kit.descendants(member.pid)]
        return all(p in scene.node.pids("cpu", "/a") or not alive(p) for p in children)

    eventually(all_inside)


def alive(pid):
    """It runs; the dead that nobody has waited for do not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def zombies(scene):
    """The dead are neither moved nor in the way."""
    code = "import os, time\nfor _ in range(50):\n    if os.fork() == 0: os._exit(0)\ntime.sleep(600)"
    parent = scene.process("/usr/bin/python3", "-c", code)
    scene.members.add(parent.pid)
    dead = subprocess.Popen(["true"])
    time.sleep(0.3)
    files = [scene.node.pid_file("parent.pid", parent.pid), scene.node.pid_file("dead.pid", dead.pid)]
    scene.start(scene.shares(a=100), pid_files={"a": files})
    eventually(lambda: inside(scene, parent.pid, "/a"))
    eventually(lambda: scene.node.status()["tasks"]["at"])
    assert not scene.node.status()["plan"]["failures"]
    dead.wait()
    scene.node.write_tree(cpu_tree({"b": 5}))
    scene.wanted = {"b": 5}
    scene.holds()
