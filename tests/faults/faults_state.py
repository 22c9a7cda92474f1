"""The state directory: full, torn, read-only, shared, somebody else's, slow."""

import json
import os
import shutil
import signal
import subprocess
import time

import kit
from faults_state_whose import anothers_document, moved_ensemble, opened_while_running, refused_directory, reload_into_anothers, two_daemons_one_directory  # noqa: F401
from kit import eventually
from scene import CONTROLLERS, kept
from state_scene import BEFORE, GOING, NOBODY, after, drift, gone, guard, leave, mounted, running, spoil, stand, traced


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


def unreadable_for_a_while(scene):
    """What was held cannot be read when the daemon starts: nothing goes, then and when it can be read."""
    running(scene)
    leave(scene)
    scene.node.stop()
    (file,) = scene.node.state.glob("held*.json")
    command = ["strace", "-D", "-I", "2", "-f", "-qq", "-o", "/dev/null", "-P", str(file), "-P", file.name, "-e", "trace=openat", "-e", "inject=openat:error=EIO"]
    with open(scene.node.log, "ab") as log:
        scene.node.process = subprocess.Popen([*command, str(kit.CGROVE), "run", "--config", str(scene.node.config)], stdout=log, stderr=log, start_new_session=True)
    eventually(lambda: scene.node.alive() and scene.node.http("/readyz")[0] == 200)
    drift(scene)
    assert stand(scene)
    assert "EIO" in scene.node.status()["state"]["error"] or "Input/output" in scene.node.status()["state"]["error"]
    tracer = next(int(line.split()[1]) for line in open(f"/proc/{scene.node.process.pid}/status") if line.startswith("TracerPid"))
    os.kill(tracer, signal.SIGTERM)
    eventually(lambda: "TracerPid:\t0\n" in open(f"/proc/{scene.node.process.pid}/status").read())
    drift(scene)
    eventually(lambda: "error" not in scene.node.status()["state"])
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


def approval_of_another_hold(scene):
    """An approval was given while nobody ran, and its document is taken back: the same mistake is held again later."""
    few = {name: share for name, share in BEFORE.items() if name not in GOING[1:] + ["a1", "a2"]}
    running(scene)
    scene.node.write_tree(scene.shares(**few))
    digest = eventually(lambda: (guard(scene) or {}).get("digest"))
    scene.node.stop()
    scene.node.run("approve", digest, check=0)
    # Else what was approved is in force first.
    (scene.node.state / "last-good.json").unlink()
    scene.node.write_tree(scene.shares(**BEFORE))
    scene.node.start()
    scene.holds()
    eventually(lambda: not (scene.node.state / "approved" / digest).exists())
    assert f"approval {digest} is dropped" in scene.node.log.read_text()
    scene.node.write_tree(scene.shares(**few))
    eventually(lambda: (guard(scene) or {}).get("digest") == digest)
    drift(scene)
    assert stand(scene) and guard(scene)["approved"] is False
    scene.node.run("approve", digest, check=0)
    eventually(lambda: not scene.node.group("cpu", "/a8").exists())


def approval_before_the_start(scene, signal_name):
    """An approval that was given while nobody ran counts at the next start with the same document."""
    running(scene)
    leave(scene)
    digest = guard(scene)["digest"]
    scene.node.stop(getattr(signal, signal_name))
    scene.node.run("approve", digest, check=0)
    scene.node.start()
    eventually(lambda: gone(scene))
    eventually(lambda: not (scene.node.state / "approved" / digest).exists())


def replaced_while_running(scene, how):
    """Another directory is in the state directory's place: that is noticed with nothing to write, and the line says what helps."""
    running(scene)
    # The daemon may be writing into it.
    aside = scene.node.state.rename(scene.directory / "aside")
    shutil.rmtree(aside, ignore_errors=True)
    if how == "replaced":
        scene.node.state.mkdir(mode=0o700)
    drift(scene)
    if scene.node.status()["landlock"]["enforced"] == "not":
        eventually(lambda: (scene.node.state / "lock").exists())
    else:
        error = eventually(lambda: scene.node.status()["state"].get("error"))
        assert "systemctl restart cgrove" in error and "replaced under the daemon" in error, error
    scene.restart()
    scene.holds()
    eventually(lambda: "error" not in scene.node.status()["state"])
    scene.node.write_tree(scene.shares(**{k: v for k, v in BEFORE.items() if k != "a8"}))
    eventually(lambda: not any(scene.node.group(c, "/a8").exists() for c in CONTROLLERS))


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
        file.unlink(missing_ok=True)
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
