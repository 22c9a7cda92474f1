"""Whose the state directory is: another daemon's, another user's, everybody's."""

import os
import shutil
import signal
import time

import kit
from kit import cpu_tree, eventually
from scene import kept
from state_scene import NOBODY, after, drift, guard, leave, running, second, stand


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


def moved_ensemble(scene):
    """Other servers with an older document at the same place: it is refused as any older one, and approved as such."""
    first = scene.zookeeper("first", document=scene.shares(a=100, b=50))
    for share in (101, 102, 103, 104, 105, 106, 107, 108):
        first.set(scene.shares(a=share, b=50))
    scene.node.configure(zookeeper=first)
    scene.start()
    scene.holds()
    scene.node.stop()
    held = scene.wanted
    new = scene.zookeeper("new", document=cpu_tree({"a": 7, "b": 50}))
    scene.node.configure(zookeeper=new)
    scene.node.start(ready=False)
    scene.refused("older than the one in force")
    assert "another cgrove" in scene.node.log.read_text() and scene.node.status()["document"] is None
    assert held == scene.wanted and scene.is_so()
    scene.node.run("approve", scene.node.status()["refused"]["approve"], check=0)
    scene.wanted = {"a": 7, "b": 50}
    scene.holds()
    eventually(lambda: kept(scene.node)["origin"]["hosts"] == [new.server.hosts])


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
        (node.state / "lock").unlink(missing_ok=True)
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
