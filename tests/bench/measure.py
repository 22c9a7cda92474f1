"""Accounts of CPU time, memory and context switches, all of them the kernel's own; and the table of results."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import kit  # noqa: E402

HELPER = ROOT / "target/bench/release/cgrove-bench"
FLOOR = "bare system calls"
CGROUPARCH = "k3cgrouparch==0.1.7"


def build():
    """The helper is a workspace of its own, so that peers are no dependencies of the program."""
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--bins", "--target-dir", ROOT / "target/bench"]
    subprocess.run(command, cwd=ROOT / "tests/bench", check=True)


# -- accounts ---------------------------------------------------------------------------------------------------------


def helper(*arguments, lines=()):
    """What one run of the helper spent, in milliseconds: one number, or lists of them."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run([HELPER, *map(str, arguments)], input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments[:2]))}: {done.stderr.strip()[-500:]}")
    return milliseconds(json.loads(done.stdout)["cpu_ns"])


def milliseconds(told):
    return [milliseconds(t) for t in told] if isinstance(told, list) else told / 1e6


def thread_ms(pid, name):
    """Of one thread, by its name."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == name:
                return int((task / "schedstat").read_text().split()[0]) / 1e6
    raise LookupError(f"{pid} has no thread {name}")


def process_ms(pid):
    """Of a whole process, threads that ended included: clock_getcpuclockid(3) of another process."""
    return time.clock_gettime((~pid << 3) | 2) * 1e3


def command_ms(*command, **options):
    """Of a command and all that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3


def rss_mib(pid, what="VmRSS"):
    """Resident; `RssAnon` is what of it no file holds."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def switches(pid):
    """Context switches of all threads: (voluntary, that is wake-ups; others)."""
    totals = [0, 0]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                for i, key in enumerate(["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]):
                    totals[i] += int(line.split()[1]) if line.startswith(key) else 0
    return totals


def slab_mib():
    """What the kernel keeps for itself in slabs."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:")) / 1024


def cgrouparch(do, tree, directory, passes=1, **more):
    """What cgrouparch's own code spends on such a tree below `directory`, its own process, in milliseconds for each pass."""
    if kit.V2:
        raise RuntimeError("it knows cgroup v1 alone")
    site = ROOT / "target/bench" / CGROUPARCH
    if not (site / "k3cgrouparch").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action", "ignore", "--target", site, CGROUPARCH]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip cannot install it: {done.stderr.strip()[-300:]}")
    asked = {"site": str(site), "do": do, "tree": tree, "cgroup_dir": str(directory), "passes": passes, **more}
    program = pathlib.Path(__file__).with_name("peers") / "cgrouparch.py"
    done = subprocess.run([sys.executable, "-B", program], input=json.dumps(asked), capture_output=True, text=True)
    # What fails there is written into its log, and it goes on.
    if done.returncode or "failed to" in done.stderr:
        raise RuntimeError(done.stderr.strip()[-300:])
    return milliseconds(json.loads(done.stdout))


@contextlib.contextmanager
def cgrouparch_dir(it):
    """The node's groups of cpu and blkio, where cgrouparch looks for whole hierarchies."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("cpu", "blkio"):
            pathlib.Path(directory, name).symlink_to(it.group(name, ""))
        yield directory


# -- results ----------------------------------------------------------------------------------------------------------


class Bench:
    """Results, as they come. Sections gather samples, so that whoever is compared can take turns."""

    def __init__(self, rounds):
        self.rounds = rounds
        self.rows = []
        self.skipped = {}
        self.gathered = {}

    def add(self, work, count, who, samples, unit="ms", note=""):
        """Samples of one row; more may follow until `close`."""
        row = self.gathered.setdefault((work, count, who), {"unit": unit, "note": note, "samples": []})
        row["samples"] += samples if isinstance(samples, list) else [samples]
        row["note"] = note or row["note"]

    def close(self):
        """Everything that was gathered becomes rows, told at once."""
        for (work, count, who), row in self.gathered.items():
            samples = sorted(row["samples"])
            told = {"work": work, "count": count, "who": who, "unit": row["unit"], "median": statistics.median(samples)}
            told |= {"least": samples[0], "most": samples[-1], "samples": len(samples), "note": row["note"]}
            self.rows.append(told)
            spread = f"({shown(told['least'])} to {shown(told['most'])}, {len(samples)})"
            print(f"  {work:<44} {count:>6}  {who:<26} {shown(told['median']):>9} {told['unit']:<3} {spread}  {row['note']}", flush=True)
        self.gathered = {}

    def skip(self, who, why):
        if self.skipped.setdefault(who, why) == why:
            print(f"!!! {who} WAS SKIPPED: {why}", flush=True)

    def turns(self, contenders):
        """Each in turn, so often as there are rounds. One that cannot is skipped, and says so."""
        contenders = dict(contenders)
        for _ in range(self.rounds):
            for who, measure in list(contenders.items()):
                try:
                    measure()
                except (RuntimeError, OSError, LookupError) as e:
                    self.skip(who, str(e))
                    del contenders[who]

    def median(self, work, count, who):
        return next((r["median"] for r in self.rows if (r["work"], r["count"], r["who"]) == (work, count, who)), None)


def shown(number):
    """Three figures."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def markdown(rows):
    """The table as documents have it; the last column says how many times cgrove's cost somebody else's is."""
    yield "| work | of | who | median | least to most | x cgrove |"
    yield "|---|---|---|---|---|---|"
    ours = {(r["work"], r["count"]): r["median"] for r in rows if r["who"].startswith("cgrove")}
    for r in rows:
        than = ours.get((r["work"], r["count"]))
        times = f"{shown(r['median'] / than)}" if than and not r["who"].startswith("cgrove") else ""
        note = f" ({r['note']})" if r["note"] else ""
        cells = [r["work"], r["count"] or "", r["who"] + note, f"{shown(r['median'])} {r['unit']}", f"{shown(r['least'])} to {shown(r['most'])}", times]
        yield "| " + " | ".join(map(str, cells)) + " |"


def needs(program):
    if not shutil.which(program):
        raise RuntimeError(f"{program} is not installed")
    return program


# -- the node ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def node(document, start=True, **settings):
    """A node with a document. What it started and made goes afterwards."""
    with tempfile.TemporaryDirectory() as directory, kit.node_of(directory, f"/cgrove-test-{os.getpid()}") as it:
        if document is not None:
            it.write_tree(document)
        it.configure(**settings)
        if start:
            it.start(ready=False)
            kit.eventually(lambda: it.alive() and it.http("/readyz")[0] == 200, timeout=120)
        yield it


# Nothing but what is measured.
QUIET = {"tasks": {"interval": "1h"}, "cgroup": {"resync": "1h"}}


def names(count):
    return [f"g{i}" for i in range(count)]


def two_files(count):
    """cgrouparch's values, CPU time and disk traffic: two files a group."""
    if kit.V2:
        return {"controllers": ["cpu", "io"], "groups": {n: {} for n in names(count)}}
    return {"cpu": {"sub_cgroup": {n: {"conf": {}} for n in names(count)}}, "blkio": {"sub_cgroup": {n: {} for n in names(count)}}}


def one_knob(count):
    """Groups under cpu (with cpuacct) and, on v1, blkio; one knob each."""
    knobs = {"cpu.weight": 20}
    return {"controllers": ["cpu"] if kit.V2 else ["cpu", "blkio"], "groups": {n: {"knobs": knobs} for n in names(count)}}


KNOB = ("cpu.weight", "20") if kit.V2 else ("cpu.shares", "205")


def hierarchies():
    """A controller of each hierarchy that such a document concerns: v1's cpu brings cpuacct, mounted with it or beside it."""
    mounts = {str(kit.MOUNTS[c]): c for c in (["cpu"] if kit.V2 else ["blkio", "cpuacct", "cpu"])}
    return list(mounts.values())[::-1]


def ticked(it, slots=3):
    kit.eventually(lambda: it.status()["usage"]["slots_total"] >= slots, timeout=60)


def each_group(it, count, io_file):
    """The two files of every group, the parent included."""
    kinds = [("cpu", "cpu.stat"), ("io", io_file)] if kit.V2 else [("cpuacct", "cpuacct.usage"), ("blkio", io_file)]
    return [it.group(controller, group) / file for controller, file in kinds for group in ["", *(f"/{n}" for n in names(count))]]
