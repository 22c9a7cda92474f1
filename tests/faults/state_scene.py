"""What the rows of the state directory share: a daemon that holds removals, and ways to spoil what it keeps."""

import contextlib
import os
import pathlib
import signal
import subprocess

import kit
from kit import eventually

NOBODY = 65534


def mounted(scene, size="256k"):
    """A small file system of its own for the state."""
    state = scene.directory / "small"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", state], check=True)
    scene.callback(subprocess.run, ["umount", "-l", state])
    scene.node.state = state
    return {"tree": {"state_dir": str(state)}}


def fill(state):
    filler = os.open(state / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(filler, b"x" * 4096):
            pass
    os.close(filler)


def spoil(scene, how):
    """From now on the state directory takes nothing; returns what mends it."""
    if how == "full":
        fill(scene.node.state)
        return (scene.node.state / "filler").unlink
    remount = lambda mode: subprocess.run(["mount", "-o", f"remount,{mode}", scene.node.state], check=True)
    remount("ro")
    return lambda: remount("rw")


BEFORE = {f"a{i}": 100 + i for i in range(9)}
GOING = [f"a{i}" for i in range(3, 9)]


def after(scene, **more):
    """Six of nine groups leave; twenty come, so that in the next round the six look few."""
    return {**scene.shares(**{f"a{i}": 100 + i for i in range(3)}, **{f"n{i}": 50 + i for i in range(20)}), **more}


def running(scene, **settings):
    scene.start(scene.shares(**BEFORE), **settings)
    scene.holds()


def stand(scene, groups=GOING):
    return all(scene.node.group("cpu", f"/{name}").exists() for name in groups)


def gone(scene):
    return not any(scene.node.group("cpu", f"/{name}").exists() for name in GOING)


def guard(scene):
    return scene.node.status()["plan"]["guard"]


def leave(scene, **more):
    """They leave the document, and are held."""
    scene.node.write_tree(after(scene, **more))
    scene.holds()
    eventually(lambda: len([h for h in scene.node.status()["plan"]["held"] if "knob" not in h]) >= len(GOING))
    assert stand(scene)


def drift(scene, times=1):
    """Somebody changes a knob: a whole round."""
    for _ in range(times):
        before = scene.node.status()["plan"]["rounds"]
        scene.node.set_shares("/a0", 7)
        eventually(lambda: scene.node.status()["plan"]["rounds"] > before)
        scene.holds()


@contextlib.contextmanager
def traced(scene, *expressions):
    """strace on the running daemon."""
    pid = scene.node.process.pid
    options = [o for e in expressions for o in ("-e", e)]
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", scene.directory / "trace", "-p", str(pid), *options], start_new_session=True)
    try:
        tasks = pathlib.Path(f"/proc/{pid}/task")
        eventually(lambda: all("TracerPid:\t0\n" not in (t / "status").read_text() for t in tasks.iterdir()))
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(10)
        kit.kill_group(tracer)


def second(scene, name="second", **tree):
    """Another node on the same machine, with the first one's state directory."""
    node = kit.Node(scene.directory / name, f"{scene.parent}-{name}")
    scene.callback(kit.remove_cgroups, node.parent)
    scene.callback(node.clean)
    node.configure(tree={"state_dir": str(scene.node.state), **tree})
    return node
