"""Real processes that sleep, in groups by pid files; some of them are taken out."""

import contextlib
import pathlib
import subprocess
import tempfile
import time

import measure
from measure import FLOOR, QUIET, command_ms, helper, hierarchies, kit, thread_ms

SLEEPERS = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
/* So many leaders, each with so many children less one; all of them only wait, and end with who started them. */
static void rest(void) { for (;;) pause(); }
static void orphan(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }
int main(int argc, char **argv) {
    int leaders = atoi(argv[1]), each = atoi(argv[2]);
    for (int i = 0; i < leaders; i++) {
        pid_t leader = fork();
        if (leader < 0) { perror("fork"); return 1; }
        if (leader) { printf("%d\n", leader); continue; }
        orphan();
        for (int j = 1; j < each; j++) {
            pid_t child = fork();
            if (child < 0) { perror("fork"); return 1; }
            if (!child) { orphan(); rest(); }
        }
        rest();
    }
    fflush(stdout);
    rest();
}
"""


@contextlib.contextmanager
def sleepers(leaders, each):
    """Pids of the leaders."""
    with tempfile.TemporaryDirectory() as directory:
        source, binary = pathlib.Path(directory, "sleepers.c"), pathlib.Path(directory, "sleepers")
        source.write_text(SLEEPERS)
        subprocess.run(["cc", "-O2", "-static", "-o", binary, source], check=True)
        process = subprocess.Popen([binary, str(leaders), str(each)], stdout=subprocess.PIPE, text=True)
        try:
            yield [int(process.stdout.readline()) for _ in range(leaders)]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            kit.eventually(lambda: not list(filter(lambda p: command_of(p) == "sleepers", pids())), timeout=60)


def pids():
    return [p for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]


def command_of(process):
    with contextlib.suppress(OSError):
        return (process / "comm").read_text().strip()


@contextlib.contextmanager
def placed(count, files):
    """A daemon that has put so many processes into the groups of so many pid files, and looks again when one of them changes."""
    with sleepers(files, count // files) as leaders, tempfile.TemporaryDirectory() as directory:
        named = {}
        for i, pid in enumerate(leaders):
            named[f"t{i}"] = f"{directory}/{i}.pid"
            pathlib.Path(named[f"t{i}"]).write_text(str(pid))
        tree = {"controllers": ["cpu"] if kit.V2 else ["cpu", "blkio"], "groups": {name: {} for name in named}}
        with measure.node(tree, pid_files=named, **QUIET) as it:
            it.pid_files = named
            it.pid_file_of_one = pathlib.Path(named["t0"])
            kit.eventually(lambda: it.status()["tasks"]["processes"] == count // files * files, timeout=60)
            time.sleep(7)
            yield it


def once(it):
    """CPU time of one look, which a pid file's replacement asks for."""
    spent, file = thread_ms(it.process.pid, "hands"), it.pid_file_of_one
    # Made elsewhere: where pid files are, all that happens is seen.
    again = it.directory / "again"
    again.write_text(file.read_text())
    again.rename(file)
    time.sleep(1.5)
    return thread_ms(it.process.pid, "hands") - spent


def look(bench, it, work, count):
    """One look at every process: where it belongs, and whether it is there."""
    bench.add(work, count, "cgrove", [once(it) for _ in range(5)])


def scan(bench, work, count):
    bench.add(work, count, FLOOR, helper("processes", 5), note="a pass over /proc: open, read, close each stat")


def run(bench, count=5000, files=50, misplaced=500):
    work, moving = f"look at processes of {files} pid files", f"and move {misplaced} of them back"
    with placed(count, files) as it:
        bench.turns({
            "cgrove": lambda: look(bench, it, work, count),
            FLOOR: lambda: scan(bench, work, count),
            "cgrouparch": lambda: bench.add(work, count, "cgrouparch", cgrouparch(it), note="its port to Python 3, cpu and blkio alone"),
        })
        bench.turns({"cgrove, moving": lambda: back(bench, it, moving, count, misplaced, files)})
        bench.turns({"cgclassify": lambda: classify(bench, it, moving, count, misplaced, files)})
    bench.close()


def cgrouparch(it):
    """It reads all of /proc for each pid file and hierarchy, and writes every pid again."""
    with measure.cgrouparch_dir(it) as directory:
        groups = {name: {"conf": {}} for name in it.pid_files}
        tree = {"cpu": {"sub_cgroup": groups}, "blkio": {"sub_cgroup": groups}}
        return measure.cgrouparch("tasks", tree, directory, pid_files={name: [file] for name, file in it.pid_files.items()})


def some(it, misplaced, files):
    """Pids of each group, as many as make up the misplaced."""
    return {f"/t{i}": it.pids("cpu", f"/t{i}")[: misplaced // files] for i in range(files)}


def out(it, chosen):
    """Somebody takes them out, into the parent; what these bare writes cost."""
    return helper("moves", lines=[f"{top} {pid}" for top in tops(it) for pids in chosen.values() for pid in pids])


def tops(it):
    return [it.make(controller, "") / "cgroup.procs" for controller in hierarchies()]


def back(bench, it, work, count, misplaced, files):
    bare = out(it, some(it, misplaced, files))
    bench.add(work, count, "cgrove", once(it), note="the look included")
    if left := sum(len(top.read_text().split()) for top in tops(it)):
        raise RuntimeError(f"{left} are still outside")
    bench.add(work, count, FLOOR, helper("processes", 1)[0] + bare, note="a pass over /proc, a write for each move")


def classify(bench, it, work, count, misplaced, files):
    """cgclassify has to be told each pid."""
    program = measure.needs("cgclassify")
    chosen = some(it, misplaced, files)
    out(it, chosen)
    parent = it.parent.lstrip("/")
    spent = sum(command_ms(program, "-g", f"{','.join(hierarchies())}:{parent}{group}", *pids) for group, pids in chosen.items())
    bench.add(work, count, "cgclassify", spent, note="told every pid; a process for each group")
