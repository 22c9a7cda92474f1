"""The state directory: full, torn, read-only, shared, somebody else's, slow."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import kit
from kit import cpu_tree, eventually
from scene import kept

NOBODY = 65534


# -- what the rows share


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


def drift(scene, times=2):
    """Somebody changes a knob: a whole round, and another."""
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


# -- held removals


def spoiled_then_drift(scene, how):
    """Groups leave while nothing can be kept, then there is drift: what was held is held, then and after the mend."""
    running(scene, **mounted(scene))
    mend = spoil(scene, how)
    leave(scene)
    drift(scene)
    assert stand(scene)
    status = scene.node.status()
    assert status["state"]["error"], status["state"]
    assert "state" in scene.node.run("status", check=0).stdout
    assert any(e["kind"] == "state_away" for e in scene.node.ask("get_events")["events"])
    assert scene.node.log.read_text().count("removals are held until the state directory") == 1
    mend()
    eventually(lambda: "error" not in scene.node.status()["state"])
    drift(scene)
    assert stand(scene)
    scene.restart()
    scene.holds()
    drift(scene)
    assert stand(scene)
    # Asked for again, they go.
    scene.node.run("approve", guard(scene)["digest"], check=0)
    eventually(lambda: gone(scene))


def few_removals_wait(scene, how):
    """One group leaves, nothing to ask about: it stays until the state directory takes what is written, and goes then."""
    running(scene, **mounted(scene))
    mend = spoil(scene, how)
    document = scene.shares(**{k: v for k, v in BEFORE.items() if k != "a8"}, z=77)
    scene.node.write_tree(document)
    scene.holds()
    eventually(lambda: any("state" in h["why"] for h in scene.node.status()["plan"]["held"]))
    drift(scene)
    assert stand(scene, ["a8"])
    mend()
    eventually(lambda: not scene.node.group("cpu", "/a8").exists())


def held_file_is(scene, what):
    """What was held is in a file that is not what was written: every removal waits for an operator."""
    running(scene)
    leave(scene)
    scene.node.stop()
    (file,) = scene.node.state.glob("held*.json")
    spare = scene.directory / "spare"
    spare.write_text("[]")
    whole = file.read_bytes()
    file.unlink()
    if what == "torn":
        file.write_bytes(whole[: len(whole) - 7])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "a link":
        file.symlink_to(spare)
    elif what == "a hard link":
        os.link(spare, file)
    elif what == "a FIFO":
        os.mkfifo(file)
    elif what == "a device":
        os.mknod(file, 0o600 | 0o020000, os.makedev(1, 5))
    elif what == "another's":
        file.write_text("[]")
        os.chown(file, NOBODY, NOBODY)
    elif what == "writable":
        file.write_text("[]")
        file.chmod(0o666)
    scene.node.start()
    drift(scene)
    assert stand(scene)
    assert "every removal waits for" in scene.node.log.read_text()
    scene.node.stop()
    assert spare.read_text() == "[]"
    scene.node.start()
    scene.holds()
    drift(scene)
    assert stand(scene)
    scene.node.run("approve", guard(scene)["digest"], check=0)
    eventually(lambda: gone(scene))


def apply_with_each_step_failing(scene, errno, calls):
    """`cgrove apply` with an error at the first such call on the state directory, at the second, and so on."""
    node = scene.node
    node.write_tree(scene.shares(**BEFORE))
    node.run("apply", check=0)
    node.write_tree(after(scene))
    node.run("apply", check=0)
    (held,) = node.state.glob("held*.json")
    paths = [node.state, node.state / "approved", held, *node.state.glob("begun*"), node.state / "lock", node.state / "last-good.json"]
    only = [o for p in paths for o in ("-P", str(p))] if "openat" in calls else []
    apply = [str(kit.CGROVE), "--config", str(node.config), "apply"]
    failed = 0
    for turn in range(1, 60):
        # A document that changes nothing of the held groups, so that everything is written anew.
        tree = after(scene)
        tree["cpu"]["sub_cgroup"]["turn"] = {"conf": {"share": 1000 + turn}}
        node.write_tree(tree)
        log = scene.directory / "trace"
        command = ["strace", "-f", "-qq", "-o", str(log), *only, "-e", f"trace={calls}", "-e", f"inject={calls}:error={errno}:when={turn}", *apply]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60 * kit.PATIENCE)
        assert "panicked" not in result.stderr, result.stderr
        assert stand(scene), (turn, result.stdout, result.stderr)
        if "(INJECTED)" not in log.read_text():
            break
        failed += 1
        log.unlink()
    assert failed >= 3, failed
    node.run("apply", check=0)
    assert stand(scene)


def cut_at_each_step(scene):
    """SIGKILL at each fsync and rename of an apply: what is kept is the old or the new, whole."""
    node = scene.node
    node.write_tree(scene.shares(**BEFORE))
    node.run("apply", check=0)
    node.write_tree(after(scene))
    node.run("apply", check=0)
    apply = [str(kit.CGROVE), "--config", str(node.config), "apply"]
    calls = "fsync,rename,renameat,renameat2"
    for turn in range(1, 30):
        tree = after(scene)
        tree["cpu"]["sub_cgroup"]["turn"] = {"conf": {"share": 1000 + turn}}
        node.write_tree(tree)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={turn}", *apply]
        result = subprocess.run(command, capture_output=True, timeout=60 * kit.PATIENCE)
        kept(node)
        assert stand(scene)
        if result.returncode == 0:
            break
    assert turn >= 5, turn
    # What a killed one left unfinished is cleared away.
    node.run("apply", check=0)
    assert not list(node.state.glob("*.new")) and stand(scene)


# -- permissions that count once


def permission_unrecorded(scene, how):
    """A document's allow_removals counts when it is recorded that it did."""
    running(scene, **mounted(scene))
    digest = kept(scene.node)["digest"]
    mend = spoil(scene, how)
    leave(scene, allow_removals=digest)
    drift(scene)
    assert stand(scene)
    mend()
    eventually(lambda: gone(scene))
    assert not scene.node.status()["plan"]["held"]


def approval_stays(scene):
    """An approval whose file cannot be removed: it does not count a second time, and not before its use is recorded."""
    running(scene)
    leave(scene)
    digest = guard(scene)["digest"]
    scene.node.stop()
    scene.node.run("approve", digest, check=0)
    approved = scene.node.state / "approved"
    subprocess.run(["mount", "--bind", approved, approved], check=True)
    scene.callback(subprocess.run, ["umount", "-l", approved])
    subprocess.run(["mount", "-o", "remount,ro,bind", approved], check=True)
    scene.node.start()
    scene.holds()
    drift(scene)
    assert stand(scene) and (approved / digest).exists()
    subprocess.run(["mount", "-o", "remount,rw,bind", approved], check=True)
    eventually(lambda: gone(scene))
    assert not (approved / digest).exists()


def approvals_of_others(scene):
    """Approvals that somebody else could have given are none: a link to a directory, linked and foreign files."""
    running(scene)
    leave(scene)
    digest = guard(scene)["digest"]
    approved = scene.node.state / "approved"
    elsewhere = scene.directory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / digest).touch()
    scene.node.stop()
    shutil.rmtree(approved)
    approved.symlink_to(elsewhere)
    scene.node.start()
    drift(scene)
    assert stand(scene) and (elsewhere / digest).exists()
    assert "not approved" in scene.node.log.read_text()
    scene.node.stop()
    approved.unlink()
    approved.mkdir(mode=0o700)
    (approved / digest).touch()
    os.chown(approved / digest, NOBODY, NOBODY)
    scene.node.start()
    drift(scene)
    assert stand(scene)
    (approved / digest).unlink()
    scene.node.run("approve", digest, check=0)
    eventually(lambda: gone(scene))


# -- whose it is


def two_daemons_one_directory(scene):
    """Another parent, another source, one state directory: the second says whose it is, and the first goes on."""
    running(scene)
    other = second(scene)
    other.write_tree(cpu_tree({"c": 7}))
    for command in ("run", "apply"):
        result = other.run(command, check=69)
        for word in (f"pid {scene.node.process.pid}", "tree.state_dir", "cgroup.parent"):
            assert word in result.stderr, result.stderr
    assert not other.group("cpu", "/c").exists()
    # Nothing is in the way of who only looks, or approves.
    other.run("plan", check=2)
    scene.node.run("status", check=0)
    same = scene.node.run("apply", check=69)
    assert "cgroup.parent" in same.stderr and "tree.state_dir" in same.stderr
    scene.node.set_shares("/a0", 7)
    scene.holds()
    scene.node.stop()
    other.run("apply", check=0)


def anothers_document(scene):
    """What one daemon kept is not applied by another, whose source is away."""
    running(scene)
    scene.node.stop()
    digest = kept(scene.node)["digest"]
    for name, parent in (("parent", None), ("source", scene.parent)):
        other = second(scene, name, path=str(scene.node.tree if name == "parent" else scene.directory / "nowhere.json"))
        moved = scene.directory / "away.json"
        scene.node.tree.rename(moved)
        if parent:
            other.parent = parent
            other.configure(tree={"state_dir": str(scene.node.state), "path": str(scene.directory / "nowhere.json")}, cgroup={"parent": parent})
            scene.node.group("cpu", "/a0").joinpath("cpu.weight" if kit.V2 else "cpu.shares").write_text("7")
        other.start(ready=False)
        eventually(lambda: "another cgrove" in other.log.read_text())
        time.sleep(1)
        assert other.status()["document"] is None and not kit.group("cpu", f"{scene.parent}-parent", "/a0").exists()
        if parent:
            assert not scene.node.shares("/a0") == 100
        other.stop()
        moved.rename(scene.node.tree)
        assert kept(scene.node)["digest"] == digest
    # Its own daemon still has it.
    scene.node.tree.rename(scene.directory / "away.json")
    scene.node.start(ready=False)
    scene.holds()


def reload_into_anothers(scene):
    """HUP with the state directory of another daemon: nothing is given up."""
    running(scene)
    other = second(scene, state_dir=str(scene.node.state / "inner"))
    other.write_tree(cpu_tree({"c": 7}))
    other.start()
    good = scene.node.config.read_text()
    scene.node.config.write_text(good.replace(f'"{scene.node.state}"', f'"{scene.node.state}/inner"'))
    scene.node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the configuration stays as it was" in scene.node.log.read_text())
    assert f"pid {other.process.pid}" in scene.node.log.read_text()
    scene.node.set_shares("/a0", 7)
    scene.holds()
    # A free one is taken, with what is held and in force; the old one is free then.
    leave(scene)
    other.stop()
    scene.node.process.send_signal(signal.SIGHUP)
    eventually(lambda: scene.node.status()["state"]["dir"].endswith("/inner"))
    eventually(lambda: (scene.node.state / "inner/last-good.json").exists())
    drift(scene)
    assert stand(scene)
    other.configure(tree={"state_dir": str(scene.node.state)})
    other.start()
    scene.node.state = scene.node.state / "inner"
    scene.restart()
    drift(scene)
    assert stand(scene)


def refused_directory(scene, what):
    """A state directory that somebody else may write, or replace: neither `run` nor `apply` begins, and says why."""
    node = scene.node
    node.write_tree(scene.shares(a=100))
    node.run("apply", check=0)
    scene.wanted = {"a": 100}
    says = what
    if what == "mode":
        node.state.chmod(0o777)
        says = "written by group or others"
    elif what == "owner":
        os.chown(node.state, NOBODY, NOBODY)
        says = f"belongs to user {NOBODY}"
    elif what == "above":
        node.directory.chmod(0o777)
        says = "could replace the state directory"
    elif what == "link":
        node.state.rename(node.directory / "real")
        node.state.symlink_to(node.directory / "real")
        says = "symbolic link"
    elif what == "file":
        shutil.rmtree(node.state)
        node.state.write_text("")
        says = "no directory"
    elif what == "lock":
        (node.state / "lock").unlink()
        (node.state / "lock").symlink_to("/etc/passwd")
        says = "symbolic link"
    node.write_tree(cpu_tree({"a": 300}))
    for command in ("run", "apply"):
        result = node.run(command, check=78)
        assert says in result.stderr and str(node.state) in result.stderr, result.stderr
    assert node.shares("/a") == 100


def opened_while_running(scene):
    """The directory is opened to others under a running daemon: nothing in it counts, and nothing goes until it is closed."""
    running(scene)
    leave(scene)
    digest = guard(scene)["digest"]
    scene.node.state.chmod(0o777)
    (scene.node.state / "approved" / digest).touch()
    drift(scene)
    assert stand(scene)
    assert scene.node.run("approve", digest).returncode == 78
    assert "written by group or others" in scene.node.status()["state"]["approvals_error"]
    scene.node.write_tree(after(scene) | {"allow_removals": kept(scene.node)["digest"]})
    eventually(lambda: "written by group or others" in scene.node.status()["state"].get("error", ""))
    drift(scene)
    assert stand(scene)
    (scene.node.state / "approved" / digest).unlink()
    scene.node.state.chmod(0o700)
    eventually(lambda: "error" not in scene.node.status()["state"])


# -- a disk that is slow, or fails for a while


def slow_disk(scene, seconds):
    """Each fsync takes long: documents come into force at once, what is unsaved is said, and saved in the end."""
    running(scene)
    with traced(scene, "trace=fsync", f"inject=fsync:delay_enter={seconds}s"):
        began = time.monotonic()
        scene.node.write_tree(scene.shares(**{**BEFORE, "a0": 900}))
        scene.holds()
        scene.node.write_tree(scene.shares(**{**BEFORE, "a0": 901}))
        scene.holds()
        took = time.monotonic() - began
        assert took < seconds - 1, took
        assert scene.node.http("/healthz")[0] == 200
        eventually(lambda: scene.node.status()["state"].get("not_yet_kept"))
        assert "not yet kept for the next boot" in scene.node.log.read_text()
    digest = scene.node.status()["document"]["digest"]
    eventually(lambda: kept(scene.node)["digest"] == digest, timeout=6 * seconds)
    eventually(lambda: "not_yet_kept" not in scene.node.status()["state"], timeout=6 * seconds)


def slow_disk_and_permission(scene, seconds):
    """A permission waits until it is recorded that it counted; the rest of the document does not."""
    running(scene)
    digest = kept(scene.node)["digest"]
    with traced(scene, "trace=fsync", f"inject=fsync:delay_enter={seconds}s"):
        began = time.monotonic()
        scene.node.write_tree(after(scene, allow_removals=digest))
        scene.holds()
        assert time.monotonic() - began < seconds
        eventually(lambda: any("slow" in h["why"] for h in scene.node.status()["plan"]["held"]))
        assert stand(scene)
    eventually(lambda: gone(scene), timeout=6 * seconds)


def daemon_with_each_call_failing(scene, errno, calls):
    """Nothing can be written for a while: documents count all the same, nothing goes, and in the end all is kept."""
    running(scene)
    with traced(scene, f"trace={calls}", f"inject={calls}:error={errno}"):
        leave(scene)
        drift(scene)
        eventually(lambda: scene.node.status()["state"].get("error"))
        assert stand(scene)
    digest = scene.node.status()["document"]["digest"]
    eventually(lambda: kept(scene.node)["digest"] == digest and "error" not in scene.node.status()["state"])
    scene.restart(signal.SIGKILL)
    scene.holds()
    drift(scene)
    assert stand(scene)


def kept_when_there_is_room(scene):
    """A document that found no room is kept as soon as there is some."""
    running(scene, **mounted(scene))
    mend = spoil(scene, "full")
    scene.node.write_tree(scene.shares(**{**BEFORE, **{f"group-with-a-long-name-{i}": 60 + i for i in range(60)}}))
    scene.holds()
    digest = scene.node.status()["document"]["digest"]
    eventually(lambda: "could not be kept" in scene.node.log.read_text())
    mend()
    eventually(lambda: kept(scene.node)["digest"] == digest)


# -- what a version before this one wrote


def earlier_version(scene):
    """Files without checksum and origin are taken over once: what was held is held."""
    running(scene)
    leave(scene)
    scene.node.stop()
    (held,) = scene.node.state.glob("held-*.json")
    removals = held.read_bytes().split(b"\n")[-1]
    for file in [held, *scene.node.state.glob("begun*"), scene.node.state / "lock"]:
        file.unlink()
    old = scene.node.state / f"held{scene.parent}{scene.parent}.json".replace("/", "-")
    old.write_bytes(removals)
    header, document = (scene.node.state / "last-good.json").read_bytes().split(b"\n", 1)
    header = {k: v for k, v in json.loads(header).items() if k != "origin"}
    (scene.node.state / "last-good.json").write_bytes(json.dumps(header).encode() + b"\n" + document)
    (scene.node.state / "begun").write_text(header["digest"])
    scene.node.tree.rename(scene.directory / "away.json")
    scene.node.start(ready=False)
    scene.holds()
    scene.node.set_shares("/a0", 7)
    scene.holds()
    assert stand(scene)
    eventually(lambda: not old.exists() and "origin" in kept(scene.node))
    (scene.directory / "away.json").rename(scene.node.tree)
    scene.restart()
    drift(scene)
    assert stand(scene)
