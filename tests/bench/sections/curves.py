"""How cost grows with groups, knobs and processes. Nothing may grow faster than what it is asked to do."""

import math
import time

import measure
from measure import FLOOR, QUIET, helper, thread_ms
from sections import processes, tick, tree

GROUPS = [10, 100, 1000, 5000, 20000]
PROCESSES = [100, 1000, 5000, 20000]
# A name of its own: with fewer samples, it is no match for the section `tick`.
TICK = "tick, as groups grow"


def run(bench, _=None):
    for count in GROUPS:
        groups(bench, count)
        bench.close()
    for count in PROCESSES:
        with processes.placed(count, min(50, count // 10)) as it:
            bench.turns({
                "cgrove": lambda: processes.look(bench, it, "look at all processes", count),
                FLOOR: lambda: processes.scan(bench, "look at all processes", count),
            })
        bench.close()
    for count in (1000, 10000, 50000):
        parse, empty, right = helper("planning", count, 3)
        bench.add("parse a document", count, "cgrove", parse)
        bench.add("plan an empty node", count, "cgrove", empty, note="three hierarchies, three knobs a group")
        bench.add("plan a settled node", count, "cgrove", right)
        bench.close()
    knobs(bench)
    bench.close()


def groups(bench, count):
    with measure.node(measure.two_files(count), usage={"memory": "16M"}, **QUIET) as it:
        measure.ticked(it)
        files = measure.each_group(it, count, it.status()["usage"]["io_source"])
        bench.add(TICK, count, "cgrove", tick.ours(it)[-5:])
        bench.add(TICK, count, FLOOR, helper("reads", 5, lines=files))
        bench.add("resident, as groups grow", count, "cgrove", measure.rss_mib(it.process.pid), unit="MiB", note="16 MiB of slots at most")
    with measure.node(measure.one_knob(count), tasks={"interval": "1h"}, cgroup={"resync": "1s"}) as it:
        time.sleep(5)
        rounds, spent = it.status()["plan"]["rounds"], thread_ms(it.process.pid, "hands")
        time.sleep(6)
        rounds = it.status()["plan"]["rounds"] - rounds
        bench.add("settled reconcile", count, "cgrove", (thread_ms(it.process.pid, "hands") - spent) / rounds, note="all hierarchies")


def knobs(bench, count=1000):
    """Nothing happens: with one knob a group, and with many."""
    many = {"cpu.weight": 20, "cpu.max": "50%", "memory.max": "1G", "memory.low": "10M", "pids.max": 500}
    for name, tuned in (("1 knob a group", {"cpu.weight": 20}), (f"{len(many)} knobs a group", many)):
        form = {"controllers": ["cpu", "memory", "pids"], "groups": {n: {"knobs": tuned} for n in measure.names(count)}}
        with measure.node(form, **QUIET) as it:
            time.sleep(5)
            for _ in range(bench.rounds):
                spent = thread_ms(it.process.pid, "hands")
                time.sleep(5)
                bench.add(f"reconciling when nothing happens, {name}", count, "cgrove", (thread_ms(it.process.pid, "hands") - spent) / 5, note="a second")


def exponents(rows):
    """Of each kind of work: how cost grows to the largest amount from one that is at most a quarter of it, as a power of the amount.
    Where the bare calls were measured too, beyond them: they have steps of their own, as where no more files can stay open."""
    bare = {(r["work"], r["count"]): r["median"] for r in rows if r["who"] == FLOOR}
    kinds = {}
    for row in rows:
        if row["unit"] == "ms" and row["who"] == "cgrove" and row["count"]:
            kinds.setdefault(row["work"], []).append((row["count"], row["median"]))
    for work, points in kinds.items():
        points = sorted(p for p in points if p[1] > 0)
        if len(points) > 2:
            m, b = points[-1]
            n, a = next((p for p in reversed(points) if p[0] * 4 <= m), points[0])
            below, above = bare.get((work, n), n), bare.get((work, m), m)
            yield work, 1 + math.log((b / above) / (a / below)) / math.log(m / n)
