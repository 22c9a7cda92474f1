"""Two files of each group every second. All read the same groups, each in seconds of its own."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import measure
from measure import FLOOR, QUIET, command_ms, each_group, helper, kit, names, process_ms, thread_ms

WORK = "tick"
SECONDS = 10


def run(bench, count):
    with measure.node(measure.two_files(count), usage={"memory": "16M"}, **QUIET) as it:
        measure.ticked(it)
        files = each_group(it, count, it.status()["usage"]["io_source"])
        add = lambda who, samples, **more: bench.add(WORK, count, who, samples, **more)
        contenders = {
            "cgrove": lambda: add("cgrove", ours(it)),
            FLOOR: lambda: add(FLOOR, helper("reads", SECONDS, lines=files), note="one pread a file, kept open"),
            "cgroups-rs": lambda: add("cgroups-rs", helper("cgroups-rs", "read", it.parent.lstrip("/"), count, 3)),
            "cgrouparch": lambda: add("cgrouparch", cgrouparch(it, count), note="its port to Python 3, without Redis"),
            "cgget": lambda: add("cgget", cgget(it, count), note="one process a tick"),
            "systemd-cgtop": lambda: add("systemd-cgtop", cgtop(it), note="batch mode, beyond its first look"),
        }
        if kit.V1:
            contenders["libcgroups"] = lambda: add("libcgroups", libcgroups(it, count), note="all statistics of v1")
        bench.turns(contenders)
        if count == 1000:
            try:
                netdata(bench, count)
            except (RuntimeError, OSError, LookupError) as e:
                bench.skip("netdata", str(e))
    if kit.UNIFIED:
        below(bench, count)
    bench.close()


def ours(it):
    """CPU time of the thread that measures, a tick: reading, rendering, keeping."""
    samples, pid = [], it.process.pid
    spent, slots = thread_ms(pid, "sampler"), it.status()["usage"]["slots_total"]
    for _ in range(SECONDS):
        time.sleep(1)
        now, more = thread_ms(pid, "sampler"), it.status()["usage"]["slots_total"]
        if more > slots:
            samples.append((now - spent) / (more - slots))
        spent, slots = now, more
    return samples


def cgrouparch(it, count):
    """Its code, unchanged; the file that newer kernels no longer have is a link to the one that they do."""
    with tempfile.TemporaryDirectory() as directory:
        directory, file = pathlib.Path(directory), it.status()["usage"]["io_source"]
        (directory / "cpu").symlink_to(it.group("cpuacct", ""))
        for group in ["", *(f"/{n}" for n in names(count))]:
            place = directory / f"blkio{group}"
            place.mkdir()
            (place / "blkio.io_service_bytes_recursive").symlink_to(it.group("blkio", group) / file)
        return measure.cgrouparch("tick", measure.two_files(count), directory, passes=3)


def libcgroups(it, count):
    """It reads the statistics of every controller, so there has to be a group in each."""
    for controller in {c for c in kit.MOUNTS if c not in ("unified", "systemd", "core")}:
        for name in names(count):
            it.make(controller, f"/{name}")
    return helper("libcgroups", "read", it.parent, count, 3)


def cgget(it, count):
    values = ["cpu.stat", "io.stat"] if kit.V2 else ["cpuacct.usage", "blkio.throttle.io_service_bytes"]
    paths = [f"{it.parent.lstrip('/')}/{n}" for n in names(count)]
    wanted = [word for value in values for word in ("-r", value)]
    return [command_ms(measure.needs("cgget"), "-n", *wanted, *paths) for _ in range(3)]


def cgtop(it, iterations=4):
    look = lambda n: command_ms(measure.needs("systemd-cgtop"), "-b", "-n", n, "-d", "1s", "-r", it.parent)
    first = look(1)
    return [(look(iterations) - first) / (iterations - 1)]


def below(bench, count):
    """below's crate reads cgroup v2: two files that each of its groups has, and the bare loop over the same ones."""
    top = pathlib.Path(f"{kit.UNIFIED}/cgrove-test-{os.getpid()}")
    try:
        groups = [top / n for n in names(count)]
        for group in groups:
            group.mkdir(parents=True)
        files = [group / file for file in ("cpu.stat", "cgroup.stat") for group in groups]
        work = "tick, cpu.stat and cgroup.stat of v2"
        bench.turns({
            FLOOR: lambda: bench.add(work, count, FLOOR, helper("reads", 3, lines=files)),
            "below's cgroupfs": lambda: bench.add(work, count, "below's cgroupfs", helper("below", "read", top, 3)),
        })
    finally:
        kit.remove_cgroups(f"/{top.name}")


def netdata(bench, count):
    """Its whole process at 1 Hz, with nothing but its cgroup charts and its own memory."""
    program = measure.needs("netdata")
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        for name in ("cache", "lib", "log"):
            (directory / name).mkdir()
        (directory / "netdata.conf").write_text(
            f"""[global]
    run as user = root
[directories]
    config = {directory}
    cache = {directory}/cache
    lib = {directory}/lib
    log = {directory}/log
[db]
    mode = ram
    update every = 1
    retention = 300
[web]
    bind to = 127.0.0.1:{kit.free_port()}
[ml]
    enabled = no
[health]
    enabled = no
[statsd]
    enabled = no
[plugins]
    enable running new plugins = no
    proc = no
    diskspace = no
    tc = no
    idlejitter = no
    timex = no
    checks = no
    apps = no
    python.d = no
    charts.d = no
    go.d = no
    perf = no
    ebpf = no
    nfacct = no
    freeipmi = no
    cups = no
    cgroups = yes
[plugin:cgroups]
    cgroups to match as systemd services = !*
    enable by default cgroups matching = *cgrove-test-*
    search for cgroups in subpaths matching = *
    run script to rename cgroups matching = !*
    max cgroups to allow = 20000
    max cgroups depth to monitor = 0
    enable memory = no
    enable cpuacct stat (total CPU) = yes
    enable cpuacct usage (per core CPU) = no
"""
        )
        with open(directory / "out", "w") as out:
            process = subprocess.Popen([program, "-D", "-c", directory / "netdata.conf"], stdout=out, stderr=out, start_new_session=True)
        try:
            time.sleep(45)
            if process.poll() is not None:
                raise RuntimeError(f"netdata ended: {(directory / 'out').read_text()[-300:]}")
            samples = []
            for _ in range(SECONDS):
                before, began = process_ms(process.pid), time.monotonic()
                time.sleep(1)
                samples.append((process_ms(process.pid) - before) / (time.monotonic() - began))
            bench.add(WORK, count, "netdata", samples, note="its whole process, cgroup charts alone")
            bench.add("resident", count, "netdata", measure.rss_mib(process.pid), unit="MiB", note="300 s kept")
        finally:
            with contextlib.suppress(ProcessLookupError):
                kit.kill_group(process)
