"""What is particular to cgroup v2, and to nodes that have both versions."""

import json
import os
import signal
import subprocess
import tempfile
import time

import pytest

import kit
from kit import cpu_tree, eventually, never, place, real_place

INNER = {"controllers": ["cpu", "pids"], "groups": {"a": {"groups": {"b": {}}}}}


@pytest.fixture
def on_disk():
    """A directory on a disk; /tmp may be in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cgrove-test-") as directory:
        yield kit.pathlib.Path(directory)


def unified(node, path=""):
    return kit.group("unified", node.parent, path)


@kit.only_v2
def test_commands_in_an_inner_group_run_in_its_leaf(node):
    node.write_tree(INNER)
    node.run("apply", check=0)
    leaf = f"{node.parent}/a/_tasks"
    arguments = node.run("cgexec", "a", check=0).stdout.strip()
    assert arguments == f"-g cpu:{leaf}"
    inside = subprocess.run(["cgexec", *arguments.split(), "cat", "/proc/self/cgroup"], capture_output=True, text=True)
    assert inside.returncode == 0, inside.stderr
    assert kit.inside(inside.stdout, "cpu") == leaf
    assert kit.inside(node.run("exec", "a", "--", "cat", "/proc/self/cgroup", check=0).stdout, "cpu") == leaf
    assert kit.inside(node.run("exec", "b", "--", "cat", "/proc/self/cgroup", check=0).stdout, "cpu") == f"{node.parent}/a/b"


@kit.only_v2
def test_cgexec_names_a_controller_that_the_group_has(node):
    """libcgroup looks for the controller in the group above."""
    node.write_tree({"controllers": ["memory"], "groups": {"a": {"groups": {"b": {}}}}})
    node.run("apply", check=0)
    for name, place in [("a", "/a/_tasks"), ("b", "/a/b")]:
        arguments = node.run("cgexec", name, check=0).stdout.split()
        inside = subprocess.run(["cgexec", *arguments, "cat", "/proc/self/cgroup"], capture_output=True, text=True)
        assert inside.returncode == 0, (arguments, inside.stderr)
        assert kit.inside(inside.stdout, "memory") == node.parent + place


@kit.only_v2
def test_create_makes_the_leaf_too(node):
    node.write_tree(INNER)
    assert "does not exist" in node.run("cgexec", "a", check=0).stderr
    assert node.run("cgexec", "a", "--create", check=0).stdout.strip() == f"-g cpu:{node.parent}/a/_tasks"
    assert unified(node, "/a/_tasks").is_dir() and not unified(node, "/a/b").exists()
    assert set(node.read("unified", "", "cgroup.subtree_control").split()) == set((kit.UNIFIED / "cgroup.controllers").read_text().split())
    inside = node.run("exec", "a", "--", "cat", "/proc/self/cgroup", check=0)
    assert kit.inside(inside.stdout, "cpu") == f"{node.parent}/a/_tasks"


@kit.only_v2
def test_nobody_sees_the_leaf(node, processes):
    sleeper = processes("sleep", "600")
    node.write_tree(INNER)
    node.configure(pid_files={"a": node.pid_file("x.pid", sleeper.pid)}).start()
    eventually(lambda: real_place(sleeper.pid) == f"{node.parent}/a/_tasks")
    eventually(lambda: node.status()["usage"]["slots_total"] >= 2)
    shown = [node.run("tree").stdout, node.run("usage").stdout, json.dumps(node.json("tree")), json.dumps(node.ask("show_account")),
             json.dumps(node.ask("list_groups")), json.dumps(node.status()), node.run("plan", check=0).stdout]
    assert not any("_tasks" in text for text in shown)
    # A process of the leaf counts for the group.
    assert "a   1 process" in shown[0] and node.status()["tasks"]["groups"] == {"/a": 1}


@kit.only_v2
def test_processes_move_aside_when_their_group_gets_children(node, processes):
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {}, "c": {}}})
    node.start()
    forkers = [processes("sh", "-c", "while :; do /bin/true; done") for _ in range(3)]
    for forker in forkers:
        node.put(forker.pid, "/a")
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {"groups": {"b": {"knobs": {"cpu.weight": 50}}}}, "c": {}}})
    eventually(lambda: node.read("cpu", "/a/b", "cpu.weight") == "50")
    assert {real_place(f.pid) for f in forkers} == {f"{node.parent}/a/_tasks"}
    # The leaf stays when the children go; new processes still find it.
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {}, "c": {}}})
    eventually(lambda: not unified(node, "/a/b").exists())
    assert unified(node, "/a/_tasks").is_dir() and all(f.poll() is None for f in forkers)
    # And goes with its group; the processes move to the parent's.
    node.write_tree({"controllers": ["cpu"], "groups": {"c": {}}})
    eventually(lambda: not unified(node, "/a").exists())
    assert {real_place(f.pid) for f in forkers} == {f"{node.parent}/_tasks"}


@kit.only_v2
def test_threads_that_someone_spread_below_a_group_stay(node):
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {}, "b": {}, "c": {}}})
    node.run("apply", check=0)
    (unified(node, "/a") / "vcpu").mkdir()
    (unified(node, "/a/vcpu") / "cgroup.type").write_text("threaded")
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {"knobs": {"cpu.weight": 7}}, "b": {"knobs": {"cpu.weight": 7}}}})
    node.run("apply", check=0)
    # The group at their top is tuned as any other.
    assert node.read("cpu", "/a", "cpu.weight") == "7" and node.read("cpu", "/b", "cpu.weight") == "7"
    assert unified(node, "/a/vcpu").is_dir() and not unified(node, "/c").exists()
    node.write_tree({"controllers": ["cpu"], "groups": {"b": {"knobs": {"cpu.weight": 7}}}})
    node.run("apply", check=0)
    assert unified(node, "/a/vcpu").is_dir()


@kit.only_v2
def test_a_limit_of_the_tree_is_explained(node):
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {}}})
    node.run("apply", check=0)
    (unified(node) / "cgroup.max.descendants").write_text("3")
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {}, "b": {}, "c": {}, "d": {}}})
    result = node.run("apply", check=69)
    assert "EAGAIN" in result.stderr and "cgroup.max.descendants" in result.stderr
    (unified(node) / "cgroup.max.descendants").write_text("max")
    node.run("apply", check=0)
    assert unified(node, "/d").is_dir()


@kit.only_v2
def test_dying_groups_do_not_stand_in_the_way(node, on_disk):
    """A removed group lives on in the kernel while page cache is charged to it; its name is free at once."""
    tree = lambda *names: {"controllers": ["memory"], "groups": {name: {} for name in names}}
    for i in range(3):
        node.write_tree(tree("keep", "dying"))
        node.run("apply", check=0)
        data = on_disk / f"data-{i}"
        node.run("exec", "dying", "--", "dd", "if=/dev/zero", f"of={data}", "bs=1M", "count=4", check=0)
        node.write_tree(tree("keep"))
        node.run("apply", check=0)
        assert not unified(node, "/dying").exists()
    node.write_tree(tree("keep", "dying"))
    node.run("apply", check=0)
    assert int(node.read("memory", "/dying", "memory.current")) < 1 << 20


@kit.only_v2
def test_reclaim_is_an_action(node, on_disk):
    node.write_tree({"controllers": ["memory"], "groups": {"a": {}}})
    node.run("apply", check=0)
    node.run("exec", "a", "--", "dd", "if=/dev/zero", f"of={on_disk}/cache", "bs=1M", "count=16", "conv=fsync", check=0)
    before = int(node.read("memory", "/a", "memory.current"))
    if not (unified(node, "/a") / "memory.reclaim").exists():
        assert "no such file" in node.run("reclaim", "a", "8M", check=69).stderr
        return
    node.run("reclaim", "a", "8M", check=0)
    assert int(node.read("memory", "/a", "memory.current")) <= before - (4 << 20)
    assert node.run("reclaim", "a", "lots").returncode == 64
    assert "found less" in node.run("reclaim", "a", "1G", check=69).stderr


@kit.only_v1
def test_reclaim_says_that_v1_has_none(node):
    node.write_tree(cpu_tree({"a": 100}))
    assert "cgroup v1" in node.run("reclaim", "a", "8M", check=69).stderr


@kit.only_v2
def test_a_group_made_anew_is_measured_anew(node, processes):
    loop = processes("sh", "-c", "while :; do :; done")
    node.write_tree(cpu_tree({"a": 100, "b": 100}))
    node.configure(tasks={"interval": "1h"}).start()
    node.put(loop.pid, "/a")
    usage = lambda: list(node.ask("show_account", nr_slot=1).values())[0]["cpu"]["sub_cgroup"]["a"]["value"].get("usage", 0)
    eventually(lambda: usage() > 1_000_000_000)
    node.put(loop.pid, "/b")
    unified(node, "/a").rmdir()
    eventually(lambda: unified(node, "/a").is_dir())
    eventually(lambda: usage() < 100_000_000)
    status = node.status()
    assert status["usage"]["io_source"] in (None, "io.stat")


@kit.only_v2
def test_the_whole_machines_traffic_is_at_the_top(node, on_disk):
    node.write_tree({"groups": {"a": {}}})
    node.start()
    newest = lambda: list(node.ask("show_account", nr_slot=1).values())[0]
    eventually(lambda: newest()["cpu"]["value"]["usage"] > newest()["cpu"]["sub_cgroup"]["a"]["value"]["usage"])
    node.run("exec", "a", "--", "sh", "-c", f"dd if=/dev/zero of={on_disk}/x bs=1M count=3 conv=fsync", check=0)
    written = lambda: [d["Write"] for d in newest()["io"]["sub_cgroup"]["a"]["value"].values()]
    eventually(lambda: max(written(), default=0) >= 3 << 20)
    assert node.status()["usage"]["io_source"] == "io.stat"


@pytest.mark.skipif(kit.V2 or kit.UNIFIED is None, reason="hybrid only")
def test_on_a_hybrid_node_each_controller_is_driven_where_it_lives(node, processes):
    sleeper = processes("sleep", "600")
    node.write_tree({"controllers": ["cpu", "pids"], "groups": {"a": {"knobs": {"cpu.weight": 200, "cgroup.max.depth": 3}, "groups": {"b": {}}}}})
    node.configure(pid_files={"a": node.pid_file("x.pid", sleeper.pid)}).start()
    assert node.read("cpu", "/a", "cpu.shares") == "2048" and node.read("unified", "/a", "cgroup.max.depth") == "3"
    eventually(lambda: real_place(sleeper.pid, "cpu") == f"{node.parent}/a" and real_place(sleeper.pid, "unified") == f"{node.parent}/a/_tasks")
    arguments = node.run("cgexec", "a", check=0).stdout.split()
    ran = subprocess.run(["cgexec", *arguments, "cat", "/proc/self/cgroup"], capture_output=True, text=True)
    assert ran.returncode == 0, (arguments, ran.stderr)
    assert kit.inside(ran.stdout, "cpu") == f"{node.parent}/a" and arguments.count("-g") == len(set(arguments)) - 1
    inside = node.run("exec", "a", "--", "cat", "/proc/self/cgroup", check=0).stdout
    assert kit.inside(inside, "cpu") == f"{node.parent}/a" and kit.inside(inside, "unified") == f"{node.parent}/a/_tasks"
    # What left the document is undone in both.
    node.write_tree({"controllers": ["cpu", "pids"], "groups": {"a": {"groups": {"b": {}}}}})
    eventually(lambda: node.read("cpu", "/a", "cpu.shares") == "1024" and node.read("unified", "/a", "cgroup.max.depth") == "max")
    # The marks follow the values.
    eventually(lambda: node.run("plan").returncode == 0)


@pytest.mark.skipif(kit.V2 or kit.UNIFIED is None, reason="hybrid only")
def test_a_document_for_v1_leaves_v2_alone(node):
    before = set(os.listdir(kit.UNIFIED))
    node.write_tree(kit.README_TREE)
    node.run("apply", check=0)
    assert not unified(node).exists() and node.group("cpu", "/b/b1").is_dir()
    assert "/_tasks" not in node.run("cgexec", "b", check=0).stdout
    assert before <= set(os.listdir(kit.UNIFIED))


@kit.only_here
def test_a_loop_that_hangs_stops_the_watchdogs_food(node, tmp_path):
    """As systemd would see it: the sampler's thread alone is stopped, by freezing nothing but it."""
    import socket

    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(10 * kit.PATIENCE)
    messages = []

    def receive(wanted, timeout):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                messages.append(notify.recv(4096).decode())
            except TimeoutError:
                return False
            if wanted in messages[-1]:
                return True
        return False

    node.write_tree(cpu_tree({"a": 100}))
    os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"] = str(tmp_path / "notify"), "4000000"
    try:
        node.start()
    finally:
        del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
    assert receive("READY=1", 10) and receive("WATCHDOG=1", 10)
    assert any("STATUS=document version 0, 1 groups" in m for m in messages) or receive("STATUS=document version 0", 10)
    threads = {(t / "comm").read_text().strip(): int(t.name) for t in (kit.pathlib.Path(f"/proc/{node.process.pid}/task")).iterdir()}
    tracer = subprocess.Popen(["/usr/bin/python3", "-c", TRACER, str(threads["sampler"])], stdout=subprocess.PIPE)
    try:
        assert tracer.stdout.readline() == b"stopped\n"
        eventually(lambda: node.http("/healthz")[0] == 503, timeout=30)
        assert "no progress: sampler" in node.http("/healthz")[1]
        # What was sent before is still in the socket.
        drained = time.monotonic() + 2
        while time.monotonic() < drained:
            receive("WATCHDOG=1", 0.1)
        notify.settimeout(5)
        assert not receive("WATCHDOG=1", 5), "it is fed although a loop hangs"
    finally:
        tracer.kill()
        tracer.wait()
    eventually(lambda: node.http("/healthz")[0] == 200)
    notify.settimeout(10)
    assert receive("WATCHDOG=1", 10)
    node.stop(signal.SIGTERM)
    assert receive("STOPPING=1", 5)


# ptrace's SEIZE and INTERRUPT stop one thread and no other; it goes on when the tracer ends.
TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
tid = int(sys.argv[1])
assert libc.ptrace(0x4206, tid, 0, 0) == 0, ctypes.get_errno()
assert libc.ptrace(0x4207, tid, 0, 0) == 0, ctypes.get_errno()
libc.waitpid(tid, ctypes.byref(ctypes.c_int()), 0x40000000)
print("stopped", flush=True)
time.sleep(600)
"""
