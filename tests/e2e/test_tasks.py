"""Processes named by pid files, moved whole, with their children, and no other."""

import os
import signal
import subprocess
import time

import kit
from kit import cpu_tree, eventually, never, place

FORK = "import os, time\npid = os.fork()\nif not pid and not os.fork(): pass\ntime.sleep(600)"


def two_descendants(family):
    """The child and grandchild of a process that runs FORK, once they are there."""
    return eventually(lambda: (lambda found: found if len(found) == 2 else None)(kit.descendants(family.pid)))


def at(node, pid, path, controllers=("cpu", "cpuacct")):
    return all(place(pid, c) == node.parent + path for c in controllers)


def test_a_pid_files_process_and_its_descendants_move(node, zookeeper, processes):
    family = processes("/usr/bin/python3", "-c", FORK)
    children = two_descendants(family)
    zookeeper.set(kit.README_TREE)
    node.configure(zookeeper=zookeeper, pid_files={"b1": node.pid_file("x.pid", f" {family.pid}\nsecond line\n")}).start()
    for pid in [family.pid, *children]:
        eventually(lambda: at(node, pid, "/b/b1"))
    # It is only in the hierarchies that have the group.
    assert kit.V2 or not place(family.pid, "blkio").startswith(node.parent)


def test_a_pid_file_that_appears_is_seen_at_once(node, processes):
    sleeper = processes("sleep", "600")
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(tasks={"interval": "1h"}, pid_files={"a": str(node.directory / "later.pid")}).start()
    # Once the start's own rounds are over, only the file itself can tell.
    eventually(lambda: node.status()["plan"]["rounds"] >= 2)
    time.sleep(1.5)
    node.pid_file("later.pid", sleeper.pid)
    eventually(lambda: at(node, sleeper.pid, "/a"), timeout=3)


def test_document_pid_files_globs_and_templates(node, processes):
    sleepers = [processes("sleep", "600") for _ in range(4)]
    for i, sleeper in enumerate(sleepers):
        node.pid_file(f"vm-{i}.pid", sleeper.pid)
    inner = processes("sleep", "600")
    node.pid_file("named-inner.pid", inner.pid)
    node.write_tree({"groups": {"vms": {"pid_files": [f"{node.directory}/vm-*.pid"], "groups": {"inner": {}}}}})
    node.configure(pid_files={"/vms/*": [f"{node.directory}/named-{{name}}.pid"]}).start()
    for sleeper in sleepers:
        eventually(lambda: at(node, sleeper.pid, "/vms", ("cpu", "memory", "pids", "blkio")))
    eventually(lambda: at(node, inner.pid, "/vms/inner"))
    assert eventually(lambda: node.status()["tasks"]["groups"]) == {"/vms": 4, "/vms/inner": 1}


def test_membership_is_drift_too(node, processes):
    sleeper = processes("sleep", "600")
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(pid_files={"a": node.pid_file("x.pid", sleeper.pid)}).start()
    eventually(lambda: at(node, sleeper.pid, "/a"))
    (kit.MOUNTS["cpu"] / "cgroup.procs").write_text(str(sleeper.pid))
    eventually(lambda: at(node, sleeper.pid, "/a"), timeout=3)


def test_a_named_descendant_belongs_to_its_own_group(node, processes):
    family = processes("/usr/bin/python3", "-c", FORK)
    first, second = two_descendants(family)
    node.write_tree(cpu_tree({"a": 5, "b": 5}))
    node.configure(pid_files={"a": node.pid_file("a.pid", family.pid), "b": node.pid_file("b.pid", first)}).start()
    eventually(lambda: at(node, family.pid, "/a") and at(node, first, "/b"))


@kit.only_v1
def test_threads_that_someone_spread_are_left_alone(node, processes):
    code = "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(600,)).start()"
    threaded = processes("/usr/bin/python3", "-c", code)
    tasks = eventually(lambda: sorted(map(int, os.listdir(f"/proc/{threaded.pid}/task"))) if len(os.listdir(f"/proc/{threaded.pid}/task")) == 4 else None)
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(pid_files={"a": node.pid_file("x.pid", threaded.pid)}).start()
    eventually(lambda: at(node, threaded.pid, "/a"))
    for controller in ("cpu", "cpuacct"):
        below = node.make(controller, "/a/vcpu")
        (below / "tasks").write_text(str(tasks[-1]))
    # A pass later it is still there.
    rounds = node.status()["tasks"]["at"]
    eventually(lambda: node.status()["tasks"]["at"] >= rounds + 2)
    assert node.read("cpu", "/a/vcpu", "tasks") == str(tasks[-1])
    # A thread that left the group altogether brings the process back.
    for controller in ("cpu", "cpuacct"):
        (kit.MOUNTS[controller] / "tasks").write_text(str(tasks[1]))
    eventually(lambda: str(tasks[1]) in node.read("cpu", "/a", "tasks").split())


def test_pid_files_that_are_not_believed(node, processes):
    victim = processes("sleep", "600")
    other_user = processes("sleep", "600", user=65534)
    files = {
        "missing": None, "empty": "", "garbage": "hello", "zero": "0", "one": "1", "negative": f"-{victim.pid}", "plus": f"+{victim.pid}",
        "hex": hex(victim.pid), "nul": f"{victim.pid}\0", "dead": "4194303", "kernel": "2", "huge": "9" * 5000, "blank": f"\n{victim.pid}",
    }
    names = {}
    for name, content in files.items():
        names[name] = str(node.directory / f"{name}.pid")
        if content is not None:
            node.pid_file(f"{name}.pid", content)
    names["world"] = node.pid_file("world.pid", victim.pid, mode=0o666)
    names["owner"] = node.pid_file("owner.pid", victim.pid)
    os.chown(names["owner"], 65534, 65534)
    names["group"] = node.pid_file("group.pid", victim.pid, mode=0o664)
    os.chown(names["group"], 0, 65534)
    names["symlink"] = str(node.directory / "symlink.pid")
    os.symlink(node.pid_file("target.pid", victim.pid), names["symlink"])
    names["fifo"] = str(node.directory / "fifo.pid")
    os.mkfifo(names["fifo"])
    names["device"] = "/dev/zero"
    names["directory"] = str(node.directory)
    own = node.pid_file("own.pid", other_user.pid)
    os.chown(own, 65534, 65534)
    node.write_tree(cpu_tree({"a": 5, "mine": 5}))
    node.configure(pid_files={"a": list(names.values()), "mine": own}).start()
    problems = eventually(lambda: node.status()["tasks"]["problems"])
    for name, path in names.items():
        assert any(p.startswith(f"{path}: ") for p in problems), f"{name}: {problems}"
    assert len(problems) == len(names)
    # The user's own pid file for the user's own process is believed.
    eventually(lambda: at(node, other_user.pid, "/mine"))
    assert not place(victim.pid, "cpu").startswith(node.parent)
    daemon = node.pid_file("daemon.pid", node.process.pid)
    node.configure(pid_files={"a": daemon})
    node.process.send_signal(1)
    eventually(lambda: any("the daemon itself" in p for p in node.status()["tasks"]["problems"]))
    assert not place(node.process.pid, "cpu").startswith(node.parent)


def test_root_symlinks_are_followed_on_request(node, processes):
    victim = processes("sleep", "600")
    link = node.directory / "link.pid"
    link.symlink_to(node.pid_file("target.pid", victim.pid))
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(tasks={"follow_symlinks": True}, pid_files={"a": str(link)}).start()
    eventually(lambda: at(node, victim.pid, "/a"))


def test_a_container_below_a_named_process_is_left_alone(node, processes):
    family = processes("/usr/bin/python3", "-c", FORK)
    first, second = two_descendants(family)
    for controller in ("cpu", "cpuacct"):
        node.make(controller, "/safe/container")
    node.put(second, "/safe/container")
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(cgroup={"protected": ["safe"]}, pid_files={"a": node.pid_file("x.pid", family.pid)}).start()
    eventually(lambda: at(node, family.pid, "/a") and at(node, first, "/a"))
    assert never(lambda: not at(node, second, "/safe/container"))
    assert any(f"pid {second}" in line for line in node.status()["tasks"]["left_alone"])


def test_an_ambiguous_name_is_reported_not_guessed(node, processes):
    victim = processes("sleep", "600")
    node.write_tree(cpu_tree({"x": (5, {"same": 5}), "y": (5, {"same": 5})}))
    node.configure(pid_files={"same": node.pid_file("x.pid", victim.pid)}).start()
    problems = eventually(lambda: node.status()["tasks"]["problems"])
    assert "/x/same, /y/same; use the path" in problems[0]
    assert not place(victim.pid, "cpu").startswith(node.parent)


def test_shares_divide_one_cpu_while_pid_files_put_processes_there(node, processes):
    """Three busy loops on one CPU: 500 | 1000 (100 | 300) gives ratios 2 and 3."""
    loops = [processes("taskset", "-c", "0", "sh", "-c", "while :; do :; done") for _ in range(3)]
    files = {name: node.pid_file(f"{name}.pid", p.pid) for name, p in zip(["left", "low", "high"], loops)}
    node.write_tree(cpu_tree({"left": 500, "right": (1000, {"low": 100, "high": 300})}))
    node.configure(pid_files=files).start()
    for name, path in [("left", "/left"), ("low", "/right/low"), ("high", "/right/high")]:
        eventually(lambda: node.pids("cpu", path))
    usage = lambda: [node.cpu_usage(path) for path in ("/left", "/right", "/right/low", "/right/high")]
    before = usage()
    time.sleep(6)
    left, right, low, high = (now - then for now, then in zip(usage(), before))
    # Without shares both would be 1; others on the same CPU blur them.
    assert 1.5 < right / left < 2.6 and 1.8 < high / low < 4, (left, right, low, high)


BREED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if not os.fork():
        time.sleep(20)
        os._exit(0)
    time.sleep(0.002)
"""


def test_children_born_during_the_move_are_fetched(node, processes):
    """After one `apply` nobody is outside, though the parent forks all the time."""
    node.write_tree(cpu_tree({"a": 5}))
    breeder = processes("/usr/bin/python3", "-c", BREED)
    node.configure(pid_files={"a": node.pid_file("breeder.pid", breeder.pid)})
    before = set(eventually(lambda: len(born := kit.descendants(breeder.pid)) > 50 and born))
    node.run("apply", check=0)
    breeder.send_signal(signal.SIGSTOP)
    after = set(kit.descendants(breeder.pid))
    assert len(after - before) > 5, "it forks too seldom to tell"
    assert not [pid for pid in after if not at(node, pid, "/a")]
