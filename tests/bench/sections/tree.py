"""Groups in the hierarchies of cpu, cpuacct and blkio (v2: one), one knob each: made, found to be right, removed again."""

import time

import measure
from measure import FLOOR, KNOB, QUIET, command_ms, helper, hierarchies, kit, names, thread_ms

MAKE, FIND, REMOVE = "make a group", "find a group right", "remove a group"
SETTLED = "settled reconcile, a group and hierarchy"


def run(bench, count):
    with measure.node(measure.one_knob(count), start=False) as it:
        bench.turns({
            "cgrove": lambda: ours(bench, it, count),
            FLOOR: lambda: floor(bench, it, count),
            "libcgroup": lambda: libcgroup(bench, it, count),
            "cgcreate": lambda: one_by_one(bench, it, count),
            "cgroups-rs": lambda: cgroups_rs(bench, it, count),
            "cgrouparch": lambda: cgrouparch(bench, it, count),
        })
    settled(bench, count)
    idle(bench, count)
    bench.close()


def add(bench, work, count, who, ms, note=""):
    bench.add(work, count, who, ms * 1e3 / count, unit="us", note=note)


def ours(bench, it, count):
    """The whole command: its start, reading the document, looking, planning, doing."""
    apply = lambda: command_ms(kit.CGROVE, "--config", it.config, "apply")
    it.write_tree(measure.one_knob(count))
    add(bench, MAKE, count, "cgrove apply", apply(), "its start included")
    add(bench, FIND, count, "cgrove apply", apply())
    digest = it.json("check", it.tree)["digest"]
    it.write_tree({**measure.one_knob(0), "allow_removals": digest})
    add(bench, REMOVE, count, "cgrove apply", apply())
    left = sum(it.group(c, f"/{n}").exists() for c in hierarchies() for n in names(count))
    if left:
        raise RuntimeError(f"{left} groups were not removed")


def directories(it, count):
    return [it.make(c, "") / n for c in hierarchies() for n in names(count)]


def floor(bench, it, count):
    """mkdir in each hierarchy, and open, write, close for the knob."""
    places = directories(it, count)
    lines = [f"{place} {KNOB[0]} {KNOB[1]}" if i < count else place for i, place in enumerate(places)]
    add(bench, MAKE, count, FLOOR, helper("create", lines=lines), "mkdir, open, write, close")
    looks = [f"{place} {KNOB[0]}" if i < count else place for i, place in enumerate(places)]
    add(bench, FIND, count, FLOOR, helper("look", lines=looks), "stat; open, read, close for the knob")
    add(bench, REMOVE, count, FLOOR, helper("remove", lines=places), "rmdir")


def libcgroup(bench, it, count):
    parent, file = it.parent.lstrip("/"), it.directory / "cgconfig.conf"
    directories(it, 0)
    knob = f"{KNOB[0]} = {KNOB[1]};"
    body = "".join(f"  {c} {{ {knob if c == 'cpu' else ''} }}\n" for c in hierarchies())
    file.write_text("".join(f"group {parent}/{n} {{\n{body}}}\n" for n in names(count)))
    parse = lambda: command_ms(measure.needs("cgconfigparser"), "-l", file)
    add(bench, MAKE, count, "cgconfigparser", parse())
    add(bench, FIND, count, "cgconfigparser", parse())
    paths = [f"{','.join(hierarchies())}:{parent}/{n}" for n in names(count)]
    add(bench, REMOVE, count, "cgdelete", command_ms(measure.needs("cgdelete"), *paths))


def one_by_one(bench, it, count):
    """As scripts do it: two processes for each group. A hundred of them tell enough."""
    parent, few = it.parent.lstrip("/"), min(count, 100)
    paths = [f"{','.join(hierarchies())}:{parent}/{n}" for n in names(few)]
    make = lambda path: command_ms(measure.needs("cgcreate"), "-g", path)
    tune = lambda path: command_ms(measure.needs("cgset"), "-r", "=".join(KNOB), path.split(":")[1])
    spent = sum(make(path) + tune(path) for path in paths)
    add(bench, MAKE, count, "cgcreate and cgset", spent * count / few, "measured on 100")
    command_ms("cgdelete", *paths)


def cgroups_rs(bench, it, count):
    if kit.V2:
        raise RuntimeError("measured on v1")
    directories(it, 0)
    add(bench, MAKE, count, "cgroups-rs", helper("cgroups-rs", "create", it.parent.lstrip("/"), count))
    add(bench, REMOVE, count, "cgroups-rs", helper("cgroups-rs", "remove", it.parent.lstrip("/"), count))


def cgrouparch(bench, it, count):
    """It knows two of the three hierarchies."""
    directories(it, 0)
    with measure.cgrouparch_dir(it) as directory:
        tree = {"cpu": {"sub_cgroup": {n: {"conf": {"share": int(KNOB[1])}} for n in names(count)}}, "blkio": {"sub_cgroup": {n: {} for n in names(count)}}}
        made, found = measure.cgrouparch("make", tree, directory, passes=2)
    add(bench, MAKE, count, "cgrouparch", made, "its port to Python 3; cpu and blkio alone")
    add(bench, FIND, count, "cgrouparch", found, "it writes every knob again")
    helper("remove", lines=[it.group(c, f"/{n}") for c in ("cpu", "blkio") for n in names(count)])


def settled(bench, count):
    """The daemon verifies every knob and finds nothing to do, once a second here."""
    with measure.node(measure.one_knob(count), tasks={"interval": "1h"}, cgroup={"resync": "1s"}) as it:
        time.sleep(4)
        for _ in range(5 * bench.rounds):
            rounds, spent = it.status()["plan"]["rounds"], thread_ms(it.process.pid, "hands")
            time.sleep(1.5)
            more = it.status()["plan"]["rounds"] - rounds
            if more:
                each = (thread_ms(it.process.pid, "hands") - spent) / more / count / len(hierarchies())
                bench.add(SETTLED, count, "cgrove", each * 1e3, unit="us", note="knobs read and compared")


def idle(bench, count):
    """Nothing happens, and inotify says so."""
    with measure.node(measure.one_knob(count), **QUIET) as it:
        time.sleep(4)
        for _ in range(bench.rounds):
            spent = thread_ms(it.process.pid, "hands")
            time.sleep(5)
            bench.add("reconciling when nothing happens", count, "cgrove", (thread_ms(it.process.pid, "hands") - spent) / 5, note="a second")
