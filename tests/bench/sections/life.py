"""A whole daemon as it is delivered, with nothing to do but to measure every second and to store it in Redis."""

import contextlib
import os
import tempfile
import time

import measure
from measure import FLOOR, QUIET, kit, process_ms, rss_mib, slab_mib, switches


def run(bench, count, minutes=10):
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        server = stack.enter_context(kit.serving(kit.Redis(f"{directory}/redis")))
        # The tests look at processes more often than a node does by default.
        it = stack.enter_context(measure.node(measure.two_files(count), redis=server, tasks={"interval": "30s"}))
        pid = it.process.pid
        time.sleep(15)
        spent, began = process_ms(pid), time.monotonic()
        voluntary, others = switches(pid)
        status = it.status()["usage"]
        time.sleep(minutes * 60)
        took, usage = time.monotonic() - began, it.status()["usage"]
        woken, preempted = switches(pid)
        note = f"{minutes:g} minutes, Redis"
        per = lambda what, value, unit, note=note: bench.add(what, count, "cgrove", value, unit=unit, note=note)
        per("a whole daemon", (process_ms(pid) - spent) / took / 10, "%", f"of a core; {note}")
        per("wake-ups", (woken - voluntary) / took, "/s")
        per("other context switches", (preempted - others) / took, "/s")
        per("seconds without a slot", usage["gaps_total"] - status["gaps_total"], "")
        per("resident", rss_mib(pid), "MiB", f"{usage['held']} slots, {usage['held_bytes'] / 2**20:.0f} MiB of it")
    memory(bench, count)
    bench.close()


def memory(bench, count):
    """Without stored slots; and what the kernel keeps for descriptors: the difference of all slabs when the daemon ends."""
    for _ in range(bench.rounds):
        with measure.node(measure.two_files(count), usage={"memory": "1"}, **QUIET) as it:
            time.sleep(20)
            pid = it.process.pid
            bench.add("resident without stored slots", count, "cgrove", rss_mib(pid), unit="MiB")
            bench.add("of it beside the program's own pages", count, "cgrove", rss_mib(pid, "RssAnon"), unit="MiB")
            voluntary, _ = switches(pid)
            time.sleep(10)
            bench.add("wake-ups, nothing happens", count, "cgrove", (switches(pid)[0] - voluntary) / 10, unit="/s", note="memory, no Redis")
            descriptors, with_it = len(os.listdir(f"/proc/{pid}/fd")), slab_mib()
            it.stop()
            time.sleep(1)
            kib = (with_it - slab_mib()) * 1024
            bench.add("kernel memory of a descriptor", count, "cgrove", kib / descriptors, unit="KiB", note=f"{descriptors} descriptors, all slabs")
