"""The tree: from ZooKeeper or a file to the kernel, repaired, pruned, guarded."""

import json
import os
import pathlib
import subprocess
import time

import kit
from kit import README_TREE, cpu_tree, eventually, never


def test_the_readme_tree_from_zookeeper(node, zookeeper):
    zookeeper.set(README_TREE)
    node.configure(zookeeper=zookeeper).start()
    assert node.shares("/a") == 1024
    assert node.shares("/b") == 100
    assert node.shares("/b/b1") == 200
    # The cpu tree is also in cpuacct, where usage is; blkio has its own, except on v2, where all are one.
    assert node.group("cpuacct", "/b/b1").is_dir() and node.group("blkio", "/a").is_dir()
    if kit.V2:
        # Beside cpu some controller that keeps processes out of the group itself.
        assert "cpu" in node.read("cpu", "/b", "cgroup.subtree_control").split()
        return
    assert not node.group("blkio", "/b").exists() and not node.group("memory").exists()
    weight = node.group("blkio", "/a") / "blkio.bfq.weight"
    if weight.exists():
        assert weight.read_text().strip().endswith("500")


def test_a_change_of_the_znode_is_in_the_kernel_within_a_second(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    node.configure(zookeeper=zookeeper).start()
    for share in (200, 300, 400):
        zookeeper.set(cpu_tree({"a": share, f"g{share}": 5}))
        eventually(lambda: node.shares("/a") == share, timeout=1)
        eventually(lambda: node.shares(f"/g{share}") == 5, timeout=1)
    assert node.ask("get_conf")["version"] == 3


def test_a_file_is_watched(node):
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    node.write_tree(cpu_tree({"a": 321}))
    eventually(lambda: node.shares("/a") == 321, timeout=2)


def disk():
    """Some disk that every kernel limits: a loop device, by number."""
    return next(p.read_text().strip() for p in sorted(pathlib.Path("/sys/block").glob("*/dev")))


@kit.only_v1
def test_a_second_plan_is_empty(node):
    tree = {
        "controllers": ["cpu", "memory", "pids", "cpuset", "freezer", "io"],
        "groups": {
            "a": {
                "knobs": {"cpu.weight": 333, "cpu.max": "70%", "memory.max": "10001234", "memory.swap.max": "1M", "pids.max": 77,
                          "cpuset.cpus": "0", "memory.swappiness": 10, "cgroup.freeze": 0, "blkio.weight": 300,
                          "memory.soft_limit_in_bytes": "5M", "io.max": {"7:0": {"rbps": "1M", "wiops": 9}}, "cpu.max.burst": 0},
                "groups": {"b": {"knobs": {"cpuset.sched_load_balance": 0}}, "idle": {"knobs": {"cpu.idle": 1, "cpu.weight": 5}}},
            }
        },
    }
    node.write_tree(tree)
    assert node.run("plan").returncode == 2
    result = node.run("apply", check=0)
    assert "0 failed" in result.stdout
    assert node.run("plan", check=0).stdout.strip().endswith("Nothing to change.")
    assert node.read("memory", "/a", "memory.limit_in_bytes") == str(10001234 // 4096 * 4096)
    assert node.read("cpu", "/a", "cpu.cfs_quota_us") == str(os.cpu_count() * 70000)
    assert node.read("cpuset", "/a/b", "cpuset.cpus") == "0"
    assert node.read("blkio", "/a", "blkio.throttle.read_bps_device") == "7:0 1048576"
    assert node.read("cpu", "/a/idle", "cpu.idle") == "1"
    # Knobs leave the document one after the other: defaults come back.
    tree["groups"]["a"]["knobs"] = {"memory.max": "max"}
    del tree["groups"]["a"]["groups"]["idle"]["knobs"]
    node.write_tree(tree)
    node.run("apply", check=0)
    assert node.run("plan", check=0)
    assert node.shares("/a") == 1024
    assert node.read("cpu", "/a/idle", "cpu.idle") == "0"
    assert node.read("cpu", "/a", "cpu.cfs_quota_us") == "-1"
    assert node.read("pids", "/a", "pids.max") == "max"
    assert node.read("blkio", "/a", "blkio.throttle.read_bps_device") == ""
    assert node.read("cpuset", "/a", "cpuset.cpus") == (kit.MOUNTS["cpuset"] / "cpuset.cpus").read_text().strip()


@kit.only_v2
def test_a_second_plan_is_empty_on_v2(node):
    number = disk()
    tree = {
        "groups": {
            "a": {
                "knobs": {"cpu.weight": 333, "cpu.max": "70%", "memory.limit_in_bytes": "10001234", "memory.memsw.limit_in_bytes": "12M",
                          "pids.max": 77, "cpuset.cpus": "0", "freezer.state": "THAWED", "memory.low": "1M", "memory.oom.group": 1,
                          "io.max": {number: {"rbps": "1M", "wiops": 9}}, "cpu.max.burst": 1000, "cgroup.max.depth": 5},
                "groups": {"b": {"knobs": {"cpu.cfs_quota_us": 5000}}, "idle": {"knobs": {"cpu.idle": 1, "cpu.weight": 5}}},
            }
        },
    }
    node.write_tree(tree)
    result = node.run("apply", check=0)
    assert "0 failed" in result.stdout
    assert node.run("plan", check=0).stdout.strip().endswith("Nothing to change.")
    read = lambda path, file: node.read("unified", path, file)
    assert read("/a", "memory.max") == str(10001234 // 4096 * 4096)
    assert read("/a", "memory.swap.max") == str(((12 << 20) - 10001234) // 4096 * 4096)
    assert read("/a", "cpu.max") == f"{os.cpu_count() * 70000} 100000" and read("/a/b", "cpu.max") == "5000 100000"
    assert read("/a", "cpu.max.burst") == "1000" and read("/a", "memory.low") == str(1 << 20) and read("/a", "cgroup.max.depth") == "5"
    assert read("/a", "io.max") == f"{number} rbps=1048576 wbps=max riops=max wiops=9"
    assert read("/a", "cpuset.cpus") == "0" and read("/a/b", "cpuset.cpus") == "" and read("/a/b", "cpuset.cpus.effective") == "0"
    assert read("/a/idle", "cpu.idle") == "1"
    # Knobs leave the document: defaults come back.
    tree["groups"]["a"]["knobs"] = {}
    for child in tree["groups"]["a"]["groups"].values():
        del child["knobs"]
    node.write_tree(tree)
    node.run("apply", check=0)
    assert node.run("plan", check=0)
    for path, file, default in [("/a", "memory.max", "max"), ("/a", "cpu.max", "max 100000"), ("/a/b", "cpu.max", "max 100000"), ("/a", "io.max", ""),
                                ("/a", "cpuset.cpus", ""), ("/a", "memory.low", "0"), ("/a", "memory.swap.max", "max"), ("/a", "pids.max", "max"),
                                ("/a", "cpu.max.burst", "0"), ("/a", "cpu.weight", "100"), ("/a/idle", "cpu.idle", "0"), ("/a", "cgroup.max.depth", "max"),
                                ("/a", "memory.oom.group", "0")]:
        assert read(path, file) == default, file


def test_drift_is_repaired(node):
    node.write_tree(cpu_tree({"a": 100, "b": (200, {"b1": 300})}))
    node.start()
    node.set_shares("/a", 7)
    eventually(lambda: node.shares("/a") == 100, timeout=4)
    node.group("cpu", "/b/b1").rmdir()
    eventually(lambda: node.shares("/b/b1") == 300, timeout=4)
    if kit.V2:  # It knows no renaming.
        return
    node.group("cpu", "/a").rename(node.group("cpu", "/elsewhere"))
    eventually(lambda: node.shares("/a") == 100, timeout=4)
    # It carries our mark, so it is ours to remove.
    eventually(lambda: not node.group("cpu", "/elsewhere").exists(), timeout=4)


def test_a_settled_daemon_writes_nothing(node):
    node.write_tree(cpu_tree({"a": 100}))
    node.configure(cgroup={"resync": "1s"}).start()
    time.sleep(1.5)
    done = node.status()["plan"]["done_total"]
    eventually(lambda: node.status()["plan"]["rounds"] >= 4)
    assert node.status()["plan"]["done_total"] == done


def test_prune_modes_and_protection(node):
    document = cpu_tree({"keep": 100})
    node.write_tree(document)
    unknown = ["/unknown", "/x/safe/in", "/vm-1", "/a/b/path", "/mine/keep"]
    for path in unknown:
        node.make("cpu", path)
    node.configure(cgroup={"prune": "none"})
    node.run("apply", check=0)
    node.configure(cgroup={"prune": "owned"})
    node.run("apply", check=0)
    assert all(node.group("cpu", path).is_dir() for path in unknown)
    node.configure(cgroup={"prune": "all", "protected": ["safe", "vm-*", "/a/b/path"]})
    plan = node.run("plan")
    assert plan.returncode == 2 and "/unknown" in plan.stdout
    node.run("apply", check=0)
    assert not node.group("cpu", "/unknown").exists() and not node.group("cpu", "/mine").exists()
    # A protected group below an unknown parent survives, with all around it.
    for path in ["/x/safe/in", "/vm-1", "/a/b/path", "/keep"]:
        assert node.group("cpu", path).is_dir(), path


def test_an_unknown_group_goes_at_once_with_prune_all(node, zookeeper):
    zookeeper.set(README_TREE)
    node.configure(zookeeper=zookeeper, cgroup={"prune": "all", "protected": ["system"]}).start()
    node.make("cpu", "/intruder/deep")
    node.make("cpu", "/other/system")
    eventually(lambda: not node.group("cpu", "/intruder").exists(), timeout=4)
    assert never(lambda: not node.group("cpu", "/other/system").exists())
    if kit.V2:
        return
    # Hierarchies that the document does not name are not ours.
    node.make("memory", "/bystander")
    assert never(lambda: not node.group("memory", "/bystander").exists())


def test_owned_groups_go_with_their_processes_moved_up(node, processes):
    node.write_tree(cpu_tree({"top": (100, {"a": 1024, "b": 100}), "c": 5}))
    node.start()
    sleeper = processes("sleep", "600")
    node.put(sleeper.pid, "/top/b")
    assert "10" in kit.mark(node.group("cpu", "/top/b"))["files"]["cpu.shares" if kit.V1 else "cpu.weight"]["want"]
    node.write_tree(cpu_tree({"top": (100, {"a": 1024}), "c": 5}))
    eventually(lambda: not node.group("cpu", "/top/b").exists() and not node.group("cpuacct", "/top/b").exists())
    assert kit.place(sleeper.pid, "cpu") == f"{node.parent}/top"
    assert sleeper.poll() is None


def test_forking_processes_are_drained(node, processes):
    node.write_tree(cpu_tree({"stay": 100, "forks": 100}))
    node.start()
    script = "while :; do /bin/true; done"
    forkers = [processes("sh", "-c", script) for _ in range(4)]
    for forker in forkers:
        (node.group("cpu", "/forks") / "cgroup.procs").write_text(str(forker.pid))
    node.write_tree(cpu_tree({"stay": 100}))
    eventually(lambda: not node.group("cpu", "/forks").exists())
    assert all(f.poll() is None for f in forkers)
    assert {kit.place(f.pid, "cpu") for f in forkers} == {node.parent}


def test_a_frozen_group_is_held(node, processes):
    tree = {"controllers": ["freezer"], "groups": {"ice": {}, "x": {}, "y": {}}}
    node.write_tree(tree)
    node.run("apply", check=0)
    sleeper = processes("sleep", "600")
    (node.group("freezer", "/ice") / "cgroup.procs").write_text(str(sleeper.pid))
    state, frozen, thawed = ("freezer.state", "FROZEN", "THAWED") if kit.V1 else ("cgroup.freeze", "1", "0")
    (node.group("freezer", "/ice") / state).write_text(frozen)
    del tree["groups"]["ice"]
    node.write_tree(tree)
    assert "frozen" in node.run("plan").stdout
    node.run("apply")
    assert node.group("freezer", "/ice").is_dir()
    (node.group("freezer", "/ice") / state).write_text(thawed)
    node.run("apply", check=0)
    assert not node.group("freezer", "/ice").exists()


def test_large_removals_wait_for_an_operator(node):
    node.write_tree(cpu_tree({f"g{i}": 10 for i in range(10)}))
    node.start()
    node.write_tree(cpu_tree({"g0": 10, "new": 20}))
    eventually(lambda: node.shares("/new") == 20)
    guard = eventually(lambda: node.status()["plan"]["guard"])
    assert not guard["approved"] and guard["groups"] == 9
    assert never(lambda: not node.group("cpu", "/g5").exists())
    assert guard["digest"] in node.run("plan").stdout
    assert node.run("approve", "0123456789abcdef").returncode == 64
    assert node.run("approve", "xyz").returncode == 64
    node.run("approve", guard["digest"], check=0)
    eventually(lambda: not any(node.group("cpu", f"/g{i}").exists() for i in range(1, 10)))
    assert node.group("cpu", "/g0").is_dir()


def test_a_document_may_allow_its_removals_once(node, zookeeper):
    zookeeper.set(cpu_tree({f"g{i}": 10 for i in range(10)}))
    node.configure(zookeeper=zookeeper).start()
    node.write_tree(cpu_tree({"other": 10}))
    result = node.run("push", "--approve", node.tree, check=0)
    assert "version 1" in result.stdout
    eventually(lambda: not any(node.group("cpu", f"/g{i}").exists() for i in range(10)))
    assert node.shares("/other") == 10
    # The same permission does not count for what happens later, nor after a restart or reload.
    for i in range(6):
        node.make("cpu", f"/h{i}")
    node.stop()
    node.configure(zookeeper=zookeeper, cgroup={"prune": "all"}).start()
    eventually(lambda: node.status()["plan"]["guard"])
    assert never(lambda: not node.group("cpu", "/h5").exists())
    # A digest that is not the replaced document's permits nothing.
    zookeeper.set({**cpu_tree({"other": 110}), "allow_removals": "0" * 16})
    eventually(lambda: node.shares("/other") == 110)
    assert never(lambda: not node.group("cpu", "/h5").exists())


def test_an_empty_document_removes_nothing(node):
    node.write_tree(cpu_tree({"a": 1024}))
    node.start()
    node.write_tree({"cpu": {"sub_cgroup": {}}})
    guard = eventually(lambda: node.status()["plan"]["guard"])
    assert "empty" in guard["why"] and node.group("cpu", "/a").is_dir()


def test_a_refused_document_changes_nothing_and_says_where(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    node.configure(zookeeper=zookeeper).start()
    bad = json.dumps(cpu_tree({"a": 200, "b": 1}), indent=1).encode()
    version = zookeeper.set(bad)
    refused = eventually(lambda: node.status()["refused"])
    assert refused["version"] == version
    assert "line" in refused["error"] and "$.cpu.sub_cgroup.b.conf.share" in refused["error"] and "2 to 262144" in refused["error"]
    assert node.ask("get_conf") == {"version": 0, "value": cpu_tree({"a": 100})}
    assert node.shares("/a") == 100 and not node.group("cpu", "/b").exists()
    zookeeper.set(cpu_tree({"a": 300}))
    eventually(lambda: node.shares("/a") == 300, timeout=1)
    assert node.status()["refused"] is None


def test_the_kernel_refusing_one_knob_stops_nothing_else(node):
    node.write_tree({"controllers": ["cpu", "cpuset"], "groups": {
        "a": {"knobs": {"cpu.weight": 50, "cpuset.cpus": "0-4095"}}, "b": {"knobs": {"cpu.weight": 60}}}})
    result = node.run("apply", check=69)
    assert "cpuset.cpus" in result.stderr and "EINVAL" in result.stderr or "ERANGE" in result.stderr
    assert node.shares("/a") == 512 and node.shares("/b") == 614
    node.start()
    assert eventually(lambda: node.status()["plan"]["failures"])[0]["knob"] == "cpuset.cpus"


def test_cpusets_move_sideways_under_children(node, processes):
    if os.cpu_count() < 2:
        raise AssertionError("this test needs two CPUs")
    tree = lambda cpus: {"controllers": ["cpuset"], "groups": {"a": {"knobs": {"cpuset.cpus": cpus}, "groups": {"b": {"groups": {"c": {}}}}}}}
    file = "cpuset.cpus" if kit.V1 else "cpuset.cpus.effective"
    for cpus in ("0", "1", "0-1", "1"):
        node.write_tree(tree(cpus))
        node.run("apply", check=0)
        for path in ("/a", "/a/b", "/a/b/c"):
            assert node.read("cpuset", path, file) == cpus, (cpus, path)


def test_memory_in_use_is_not_reclaimed_by_surprise(node, processes):
    tree = lambda limit, **more: {"controllers": ["memory"], "groups": {"a": {"knobs": {"memory.max": limit}, **more}}}
    node.write_tree(tree("400M"))
    node.run("apply", check=0)
    code = "import time; data = bytearray(64 << 20); open('/dev/stdout','w').write('ok\\n'); time.sleep(600)"
    join = f"echo 0 > {node.group('memory', '/a')}/cgroup.procs && exec /usr/bin/python3 -c \"{code}\""
    hog = processes("sh", "-c", join, stdout=subprocess.PIPE)
    assert hog.stdout.readline() == b"ok\n"
    node.write_tree(tree("16M"))
    plan = node.json("plan", check=2)
    assert "allow_reclaim" in plan["actions"][0]["held"]
    node.run("apply", check=0)
    assert node.read("memory", "/a", "memory.limit_in_bytes" if kit.V1 else "memory.max") == str(400 << 20)
    assert hog.poll() is None


def test_groups_of_another_parent_are_foreign(node, tmp_path):
    """Two nodes on parents inside each other: the second is refused while the first runs, and never prunes its groups."""
    node.write_tree(cpu_tree({"a": 100, "b": 100}))
    node.start()
    inner = kit.Node(tmp_path / "inner", f"{node.parent}/a")
    inner.write_tree(cpu_tree({"x": 5}))
    result = inner.run("apply", check=69)
    assert "another cgrove manages" in result.stderr and f"pid {node.process.pid}" in result.stderr
    node.stop()
    inner.run("apply", check=0)
    node.configure(cgroup={"prune": "all"})
    node.run("apply", check=0)
    assert inner.shares("/x") == 5


def test_marks_in_the_state_directory_do_the_same(node):
    """As on kernels without extended attributes on cgroups."""
    node.write_tree(cpu_tree({"a": 100, "b": 5, "c": 5}))
    node.configure(cgroup={"marks": "state_dir"})
    node.run("apply", check=0)
    assert kit.mark(node.group("cpu", "/a")) is None
    assert node.run("plan", check=0)
    # Ours is removed, what only looks like it is not, knobs are undone.
    node.group("cpu", "/c").rmdir()
    node.make("cpu", "/c")
    tree = cpu_tree({"a": 100})
    del tree["cpu"]["sub_cgroup"]["a"]["conf"]
    node.write_tree(tree)
    node.run("apply", check=0)
    assert node.shares("/a") == 1024
    assert not node.group("cpu", "/b").exists() and node.group("cpu", "/c").is_dir()


def test_a_renamed_tree_stays_held_as_the_new_one_grows(node):
    node.write_tree(cpu_tree({f"a{i}": 5 for i in range(4)}))
    node.configure(cgroup={"resync": "1s"}).start()
    node.write_tree(cpu_tree({f"b{i}": 5 for i in range(6)}))
    eventually(lambda: node.group("cpu", "/b5").is_dir())
    guard = eventually(lambda: node.status()["plan"]["guard"])
    assert never(lambda: not node.group("cpu", "/a0").exists(), during=3)
    # Nor does a restart, or `cgrove apply`, forget it.
    node.stop()
    node.run("apply", check=0)
    assert node.group("cpu", "/a0").is_dir()
    node.start()
    node.run("approve", guard["digest"], check=0)
    eventually(lambda: not any(node.group("cpu", f"/a{i}").exists() for i in range(4)))


def test_a_hierarchy_is_not_forgotten_with_its_last_knob(node, processes):
    sleeper = processes("sleep", "600")
    tree = lambda knobs: {"groups": {"a": {"knobs": knobs, "pid_files": [str(node.directory / "x.pid")]}, "b": {}}}
    node.pid_file("x.pid", sleeper.pid)
    node.write_tree(tree({"cgroup.freeze": 1, "cpuset.cpus": "0"}))
    node.start()
    eventually(lambda: kit.place(sleeper.pid, "freezer") == f"{node.parent}/a")
    state, frozen, thawed = ("freezer.state", "FROZEN", "THAWED") if kit.V1 else ("cgroup.freeze", "1", "0")
    eventually(lambda: node.read("freezer", "/a", state) == frozen)
    node.write_tree(tree({}))
    eventually(lambda: node.read("freezer", "/a", state) == thawed)
    # v2 takes no empty list while a process is inside: then it has all that the parent has.
    everything = (kit.MOUNTS["cpuset"] / ("cpuset.cpus" if kit.V1 else "cpuset.cpus.effective")).read_text().strip()
    eventually(lambda: node.read("cpuset", "/a", "cpuset.cpus") == everything)
    document = tree({})
    del document["groups"]["b"]
    node.write_tree(document)
    eventually(lambda: not node.group("freezer", "/b").exists() and not node.group("cpuset", "/b").exists())
    assert node.run("plan", check=0)


def test_a_missing_device_is_a_failure_and_blocks_no_other(node):
    node.write_tree({"controllers": ["io"], "groups": {"a": {"knobs": {"io.max": {"4095:7": {"rbps": "1M"}, disk(): {"rbps": "2M"}}}}}})
    result = node.run("apply", check=69)
    assert "ENODEV" in result.stderr
    limit = node.read("blkio", "/a", "blkio.throttle.read_bps_device" if kit.V1 else "io.max")
    assert limit.startswith(f"{disk()} {'' if kit.V1 else 'rbps='}2097152")
    node.start()
    assert eventually(lambda: node.status()["plan"]["failures"])[0]["knob"] == "io.max"
    rounds = node.status()["plan"]["rounds"]
    time.sleep(2.5)
    assert node.status()["plan"]["rounds"] <= rounds + 3


@kit.only_v1
def test_raw_files_that_can_only_be_written_settle(node):
    node.write_tree({"controllers": ["devices"], "groups": {"a": {"files": {"devices.deny": "a", "devices.allow": "c 1:3 rwm"}}}})
    node.run("apply", check=0)
    assert node.read("devices", "/a", "devices.list") == "c 1:3 rwm"
    assert node.run("plan", check=0)


@kit.only_v1
def test_swappiness_goes_back_to_the_parents(node):
    tree = lambda knobs: {"controllers": ["memory"], "groups": {"a": {"knobs": knobs}}}
    node.write_tree(tree({"memory.swappiness": 7}))
    node.run("apply", check=0)
    assert node.read("memory", "/a", "memory.swappiness") == "7"
    node.write_tree(tree({}))
    node.run("apply", check=0)
    assert node.read("memory", "/a", "memory.swappiness") == node.read("memory", "", "memory.swappiness")


def test_a_parent_narrows_in_the_same_apply_that_removes_its_wide_child(node):
    tree = lambda cpus, children: {"controllers": ["cpuset"], "groups": {"a": {"knobs": {"cpuset.cpus": cpus}, "groups": children}, "z": {}}}
    node.write_tree(tree("0-1", {"b": {"knobs": {"cpuset.cpus": "1"}}}))
    node.run("apply", check=0)
    node.write_tree(tree("0", {}))
    node.run("apply", check=0)
    assert node.read("cpuset", "/a", "cpuset.cpus") == "0"


def test_the_daemons_own_group_stays(node):
    for i in range(6):
        node.make("cpu", f"/unknown{i}")
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(cgroup={"prune": "none"}).start()
    (node.make("cpu", "/home/inner") / "cgroup.procs").write_text(str(node.process.pid))
    node.configure(cgroup={"prune": "all"})
    node.process.send_signal(1)
    eventually(lambda: node.status()["plan"]["guard"])
    node.run("approve", node.status()["plan"]["guard"]["digest"], check=0)
    eventually(lambda: not node.group("cpu", "/unknown5").exists())
    assert node.group("cpu", "/home/inner").is_dir()
    assert kit.place(node.process.pid, "cpu") == f"{node.parent}/home/inner"
