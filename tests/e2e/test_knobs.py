"""Every knob on this host's kernel: written, read back, its default restored, refused beyond its range.

Each row: a value, what it shall make of which file on v1 and on v2 (None: not expressible there), values that are
refused, and the knobs that have to stand beside it. The table of results is printed at the end of the run.
"""

import json
import os
import pathlib
import subprocess

import pytest

import kit
from kit import CGROVE

DISK = next((p.read_text().strip() for p in sorted(pathlib.Path("/sys/block").glob("[nsv]*/dev"))), "7:0")
CPUS = os.cpu_count()
SHARED = lambda file, text: ({file: text}, {file: text})
ONLY_V1 = lambda file, text: ({file: text}, None)
ONLY_V2 = lambda file, text: (None, {file: text})
RATES = ["rbps", "wbps", "riops", "wiops"]


def limits(**numbers):
    return f"{DISK} " + " ".join(f"{key}={numbers.get(key, 'max')}" for key in RATES)


def rate(file, field, **bad):
    return ({DISK: 1048576}, {file: f"{DISK} 1048576"}, {"io.max": limits(**{field: 1048576})}, [{DISK: 0}, {"sda": 5}, 5], {})


def flag(name, on=1):
    return on, *ONLY_V1(name, str(on)), [2, "x"], {}


# value, files on v1, files on v2, refused, beside
ROWS = {
    "cpu.weight": (500, {"cpu.shares": "5120"}, {"cpu.weight": "500"}, [0, 10001], {}),
    "cpu.weight.nice": (-5, {"cpu.shares": "3121"}, {"cpu.weight.nice": "-5"}, [-21, 20], {}),
    "cpu.shares": (2048, {"cpu.shares": "2048"}, {"cpu.weight": "200"}, [1, 262145], {}),
    "cpu.max": ("50000 200000", {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "200000"}, {"cpu.max": "50000 200000"}, [999, "x", "5 5"], {}),
    "cpu.cfs_quota_us": (50000, {"cpu.cfs_quota_us": "50000"}, {"cpu.max": "50000 100000"}, [999, -2], {}),
    "cpu.cfs_period_us": (200000, {"cpu.cfs_period_us": "200000"}, {"cpu.max": "max 200000"}, [999, 1000001], {}),
    "cpu.max.burst": (1000, {"cpu.cfs_burst_us": "1000"}, {"cpu.max.burst": "1000"}, [-1], {"cpu.max": "50000"}),
    "cpu.cfs_burst_us": (1000, {"cpu.cfs_burst_us": "1000"}, {"cpu.max.burst": "1000"}, [-1], {"cpu.cfs_quota_us": 50000}),
    "cpu.idle": (1, *SHARED("cpu.idle", "1"), [2], {}),
    "cpu.uclamp.min": (12.5, *SHARED("cpu.uclamp.min", "12.50"), [-1, 101], {}),
    "cpu.uclamp.max": ("50%", *SHARED("cpu.uclamp.max", "50.00"), [-1, "101%"], {}),
    "cpu.rt_runtime_us": (0, *ONLY_V1("cpu.rt_runtime_us", "0"), [-2], {}),
    "cpu.rt_period_us": (500000, *ONLY_V1("cpu.rt_period_us", "500000"), [0], {}),
    "cpuset.cpus": ("0", *SHARED("cpuset.cpus", "0"), ["3-1", "x", ""], {}),
    "cpuset.mems": ("0", *SHARED("cpuset.mems", "0"), ["x"], {}),
    "cpuset.cpus.exclusive": ("0", *ONLY_V2("cpuset.cpus.exclusive", "0"), ["x"], {}),
    "cpuset.cpus.partition": ("root", *ONLY_V2("cpuset.cpus.partition", "root"), ["roots", 1], {"cpuset.cpus": "0"}),
    "cpuset.cpu_exclusive": flag("cpuset.cpu_exclusive"),
    "cpuset.mem_exclusive": flag("cpuset.mem_exclusive"),
    "cpuset.mem_hardwall": flag("cpuset.mem_hardwall"),
    "cpuset.memory_migrate": flag("cpuset.memory_migrate"),
    "cpuset.memory_spread_page": flag("cpuset.memory_spread_page"),
    "cpuset.memory_spread_slab": flag("cpuset.memory_spread_slab"),
    "cpuset.sched_load_balance": flag("cpuset.sched_load_balance", 0),
    "cpuset.sched_relax_domain_level": (0, *ONLY_V1("cpuset.sched_relax_domain_level", "0"), [-2, 6], {}),
    "memory.max": ("64M", {"memory.limit_in_bytes": "67108864"}, {"memory.max": "67108864"}, [-2, "5X", "101%"], {}),
    "memory.limit_in_bytes": ("64M", {"memory.limit_in_bytes": "67108864"}, {"memory.max": "67108864"}, ["x"], {}),
    "memory.swap.max": ("32M", {"memory.memsw.limit_in_bytes": "100663296"}, {"memory.swap.max": "33554432"}, ["x"], {"memory.max": "64M"}),
    "memory.memsw.limit_in_bytes": ("96M", {"memory.memsw.limit_in_bytes": "100663296"}, {"memory.swap.max": "33554432"}, ["x"], {"memory.limit_in_bytes": "64M"}),
    "memory.high": ("64M", *ONLY_V2("memory.high", "67108864"), ["x"], {}),
    "memory.low": ("64M", *ONLY_V2("memory.low", "67108864"), ["x"], {}),
    "memory.min": ("64M", *ONLY_V2("memory.min", "67108864"), ["x"], {}),
    "memory.swap.high": ("64M", *ONLY_V2("memory.swap.high", "67108864"), ["x"], {}),
    "memory.zswap.max": ("64M", *ONLY_V2("memory.zswap.max", "67108864"), ["x"], {}),
    "memory.zswap.writeback": (0, *ONLY_V2("memory.zswap.writeback", "0"), [2], {}),
    "memory.oom.group": (1, *ONLY_V2("memory.oom.group", "1"), [2], {}),
    "memory.reclaim": ("1M", None, None, ["x"], {}),
    "memory.soft_limit_in_bytes": ("64M", *ONLY_V1("memory.soft_limit_in_bytes", "67108864"), ["x"], {}),
    "memory.kmem.tcp.limit_in_bytes": ("64M", *ONLY_V1("memory.kmem.tcp.limit_in_bytes", "67108864"), ["x"], {}),
    "memory.swappiness": (7, *ONLY_V1("memory.swappiness", "7"), [-1, 201], {}),
    "memory.oom_control": (1, *ONLY_V1("memory.oom_control", "oom_kill_disable 1"), [2], {}),
    "memory.move_charge_at_immigrate": (1, *ONLY_V1("memory.move_charge_at_immigrate", "1"), [4, -1], {}),
    "io.weight": (50, {"blkio.bfq.weight": "50"}, {"io.weight": "default 50"}, [0, 10001, {"x": 5}], {}),
    "io.bfq.weight": ({"default": 50, DISK: 200}, {"blkio.bfq.weight": "50", "blkio.bfq.weight_device": f"{DISK} 200"},
                      {"io.bfq.weight": f"default 50\n{DISK} 200"}, [0, 1001], {}),
    "blkio.weight": (400, {"blkio.bfq.weight": "400"}, {"io.bfq.weight": "default 400"}, [9, 1001], {}),
    "blkio.weight_device": ({DISK: 200}, {"blkio.bfq.weight_device": f"{DISK} 200"}, {"io.bfq.weight": f"{DISK} 200"}, [{DISK: 5}], {}),
    "blkio.bfq.weight": (50, {"blkio.bfq.weight": "50"}, {"io.bfq.weight": "default 50"}, [0, 1001], {}),
    "blkio.bfq.weight_device": ({DISK: 200}, {"blkio.bfq.weight_device": f"{DISK} 200"}, {"io.bfq.weight": f"{DISK} 200"}, [{DISK: 0}], {}),
    "io.max": ({DISK: {"rbps": "1M", "wiops": 50}}, {"blkio.throttle.read_bps_device": f"{DISK} 1048576", "blkio.throttle.write_iops_device": f"{DISK} 50"},
               {"io.max": limits(rbps=1048576, wiops=50)}, [{DISK: {"rbps": 0}}, {DISK: {"bps": 1}}], {}),
    "blkio.throttle.read_bps_device": rate("blkio.throttle.read_bps_device", "rbps"),
    "blkio.throttle.write_bps_device": rate("blkio.throttle.write_bps_device", "wbps"),
    "blkio.throttle.read_iops_device": rate("blkio.throttle.read_iops_device", "riops"),
    "blkio.throttle.write_iops_device": rate("blkio.throttle.write_iops_device", "wiops"),
    "io.latency": ({DISK: {"target": 75000}}, *ONLY_V2("io.latency", f"{DISK} target=75000"), [{DISK: {"target": 0}}, {DISK: 5}], {}),
    "io.prio.class": ("restrict-to-be", {"blkio.prio.class": "restrict-to-be"}, {"io.prio.class": "restrict-to-be"}, ["best"], {}),
    "blkio.prio.class": ("restrict-to-be", {"blkio.prio.class": "restrict-to-be"}, {"io.prio.class": "restrict-to-be"}, ["best"], {}),
    "io.cost.qos": ({DISK: {}}, None, None, [5], {}),
    "io.cost.model": ({DISK: {}}, None, None, [5], {}),
    "pids.max": (77, *SHARED("pids.max", "77"), [-1, 4194305], {}),
    "freezer.state": ("FROZEN", {"freezer.state": "FROZEN"}, {"cgroup.freeze": "1"}, ["frozen", 1], {}),
    "cgroup.freeze": (1, {"freezer.state": "FROZEN"}, {"cgroup.freeze": "1"}, [2], {}),
    "cgroup.max.depth": (3, *ONLY_V2("cgroup.max.depth", "3"), [-1], {"cgroup.max.descendants": 40}),
    "cgroup.max.descendants": (30, *ONLY_V2("cgroup.max.descendants", "30"), [-1], {"cgroup.max.depth": 7}),
    "cgroup.pressure": (0, *ONLY_V2("cgroup.pressure", "0"), [2], {"cgroup.max.depth": 7}),
    "devices.allow": (["c 1:3 rwm", "b 8:* r"], *ONLY_V1("devices.list", "c 1:3 rwm\nb 8:* r"), [["x"], [], "c 1:3 rwm"], {}),
    "devices.deny": (["a"], *ONLY_V1("devices.list", ""), [["c 1 r"]], {}),
    "devices.list": (["a"], None, None, [["x"]], {}),
    "net_cls.classid": ("10:1", *ONLY_V1("net_cls.classid", "1048577"), ["x:1", -1, 4294967296], {}),
    "net_prio.ifpriomap": ({"lo": 5}, *ONLY_V1("net_prio.ifpriomap", "lo 5"), [{"lo": -1}, 5], {}),
    "rdma.max": ({"mlx5_0": {"hca_handle": 2}}, *SHARED("rdma.max", "mlx5_0 hca_handle=2"), [{"mlx5_0": {"handles": 2}}], {}),
    "misc.max": ({"sev": 2}, *SHARED("misc.max", "sev 2"), [{"sev": -1}], {}),
    "hugetlb.2MB.max": ("4M", {"hugetlb.2MB.limit_in_bytes": "4194304"}, {"hugetlb.2MB.max": "4194304"}, ["x"], {}),
    "hugetlb.2MB.rsvd.max": ("4M", {"hugetlb.2MB.rsvd.limit_in_bytes": "4194304"}, {"hugetlb.2MB.rsvd.max": "4194304"}, ["x"], {}),
    "hugetlb.2MB.limit_in_bytes": ("4M", {"hugetlb.2MB.limit_in_bytes": "4194304"}, {"hugetlb.2MB.max": "4194304"}, ["x"], {}),
    "hugetlb.2MB.rsvd.limit_in_bytes": ("4M", {"hugetlb.2MB.rsvd.limit_in_bytes": "4194304"}, {"hugetlb.2MB.rsvd.max": "4194304"}, ["x"], {}),
}


def test_every_knob_has_a_row():
    schema = json.loads(subprocess.run([CGROVE, "schema"], capture_output=True, text=True, check=True).stdout)
    knobs = set(schema["$defs"]["group"]["properties"]["knobs"]["properties"])
    other_pages = {k for k in knobs if k.startswith("hugetlb.") and not k.startswith("hugetlb.2MB.")}
    assert knobs - other_pages == set(ROWS)


def controller_of(knob):
    return {"cgroup": "unified", "blkio": "io"}.get(knob.split(".")[0], knob.split(".")[0])


def home(knob):
    """The hierarchy that the knob's controller lives in, if any: its directory and whether it is v2's."""
    name = controller_of(knob) if knob != "cgroup.freeze" else "freezer"
    name = "blkio" if name == "io" and "blkio" in kit.MOUNTS else name
    mount = kit.MOUNTS.get(name)
    return mount, mount is not None and mount == kit.UNIFIED


def normal(text):
    """v1 prints no limit as some huge number of whole pages."""
    return "max" if text.strip().isdigit() and int(text) > 1 << 62 else text.strip()


def holds(text, wanted, file):
    """Does a file say what is wanted? Lines by disk stand among others."""
    lines = [l.strip() for l in text.strip().split("\n")]
    wanted = wanted.split("\n")
    if file.endswith(("weight", "_device", "max", "ifpriomap", "latency", "oom_control")) and len(lines) > len(wanted):
        return all(w in lines for w in wanted)
    return sorted(lines) == sorted(wanted)


@pytest.mark.parametrize("knob", ROWS)
def test_a_knob(node, knob, record_property):
    value, v1, v2, refused, beside = ROWS[knob]
    for bad in refused:
        node.write_tree({"groups": {"g": {"knobs": {**beside, knob: bad}}}})
        result = node.run("check", check=65)
        assert knob in result.stderr and "allowed" in result.stderr, result.stderr
    mount, on_v2 = home(knob)

    def verdict(text):
        record_property("cell", f"{text}; {len(refused)} values beyond the range refused")

    node.write_tree({"groups": {"g": {"knobs": {**beside, knob: value}}, "other": {}}})
    result = node.json("plan")
    notes = [n["text"] for n in result["notes"] if n.get("knob") == knob]
    if mount is None:
        return verdict("no such hierarchy is mounted")
    files = v2 if on_v2 else v1
    if files is None:
        assert notes and "not expressible" in notes[0], result["notes"]
        return verdict("not expressible: " + notes[0].split(": ", 1)[1])
    # Who has only the knobs that stand beside it is what the default is compared with.
    node.write_tree({"groups": {"g": {"knobs": beside}, "other": {}}, "controllers": sorted({controller_of(k) for k in [knob, *beside] if controller_of(k) != "unified"} | ({"freezer"} if knob == "cgroup.freeze" else set()) | {"pids"})})
    node.run("apply")
    group = pathlib.Path(f"{mount}{node.parent}/g")
    before = {f: normal((group / f).read_text()) for f in files if (group / f).exists()}
    tree = json.loads(node.tree.read_text())
    tree["groups"]["g"]["knobs"] = {**beside, knob: value}
    node.write_tree(tree)
    applied = node.run("apply")
    if not set(before) == set(files):
        plan = node.json("plan")
        notes = [n["text"] for n in plan["notes"] if n.get("knob") == knob]
        if not notes:
            # The weight of a kernel without bfq goes to the other file.
            assert knob.startswith("blkio.weight") and applied.returncode == 0, (files, applied.stderr)
            return verdict(f"converted into what this kernel has ({', '.join(sorted({a['file'] for a in plan['actions'] if 'file' in a}) or ['io.weight'])})")
        assert "this kernel has n" in notes[0], notes
        return verdict(f"this kernel has no {', '.join(sorted(set(files) - set(before)))}")
    if applied.returncode:
        reason = next(l for l in applied.stderr.splitlines() if "failed" in l)
        errno = next(word for word in reason.replace(":", " ").split() if word.isupper() and word.startswith("E"))
        # A refusal is known beforehand, or this is a bug.
        bfq = "[bfq]" in pathlib.Path(f"/sys/dev/block/{DISK}/queue/scheduler").read_text()
        known = KNOWN_REFUSALS.get(knob, ())
        assert errno in known and not (bfq and "bfq" in reason), reason
        return verdict(f"refused by the kernel: {errno}")
    now = {f: (group / f).read_text() for f in files}
    kept = [a for a in json.loads(node.run("apply", "--output", "json").stdout)["actions"]]
    assert kept == [], "a second apply finds nothing to do"
    odd = {f: text for f, text in now.items() if not holds(text, files[f], f)}
    if odd:
        assert all(KNOWN_KEPT.get(knob, "no such text") in text for text in odd.values()), (odd, files)
        return verdict(f"the kernel kept {' '.join(odd[next(iter(odd))].split())!r}")
    tree["groups"]["g"]["knobs"] = beside
    node.write_tree(tree)
    node.run("apply", check=0)
    after = {f: normal((group / f).read_text()) for f in files}
    assert after == before, (after, before)
    assert node.json("plan", check=0)["actions"] == []
    verdict("written, read back, default restored")


# A cpuset is exclusive, or a partition, only where the whole way down to it is; a test's parent is not.
EXCLUSIVE = ("EACCES", "EINVAL")
KNOWN_REFUSALS = {
    "cpuset.cpu_exclusive": EXCLUSIVE, "cpuset.mem_exclusive": EXCLUSIVE, "cpuset.cpus.exclusive": EXCLUSIVE,
    # Only 0 since Linux 6.14.
    "memory.move_charge_at_immigrate": ("EINVAL",),
    # By disk only where that disk is under the bfq scheduler.
    "io.bfq.weight": ("EOPNOTSUPP",), "blkio.weight_device": ("EOPNOTSUPP",), "blkio.bfq.weight_device": ("EOPNOTSUPP",),
    # Hardware that no test machine has.
    "rdma.max": ("ENODEV", "EINVAL"), "misc.max": ("EINVAL",),
}
# What the kernel says instead, in part.
KNOWN_KEPT = {"cpuset.cpus.partition": "root invalid"}
