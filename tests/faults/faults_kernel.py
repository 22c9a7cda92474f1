"""The kernel says no, and others work on our groups behind our back."""

import os
import re
import subprocess
import time

import kit
from kit import cpu_tree, eventually

SYSTEM_CALLS = "mkdir,mkdirat,rmdir,unlinkat,write,setxattr"


def running(scene, **shares):
    scene.start(scene.shares(**(shares or {"a": 100, "b": 50})))
    scene.holds()


def removed(scene):
    running(scene)
    for _ in range(20):
        for controller in kit.MOUNTS and {"cpu", "cpuacct"}:
            directory = scene.node.group(controller, "/a")
            if directory.exists():
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
        time.sleep(0.05)
    scene.holds(5)


def renamed(scene):
    """v1 can rename groups; v2 cannot, there it is a refusal."""
    running(scene)
    directory = scene.node.group("cpu", "/a")
    try:
        directory.rename(directory.with_name("elsewhere"))
    except OSError:
        assert kit.V2
        return
    scene.holds(5)


def created(scene):
    """What someone makes beside and below ours stays, with the policy that spares what is not ours."""
    running(scene)
    made = [scene.node.make("cpu", p) for p in ("/a/theirs", "/theirs")]
    inodes = [d.stat().st_ino for d in made]
    scene.node.set_shares("/b", 9)
    scene.holds(5)
    assert [d.stat().st_ino for d in made] == inodes and not any(kit.mark(d) for d in made)


def recreated(scene):
    """A group that came back under another inode is tuned again, and its counters are no continuation."""
    running(scene)
    for _ in range(5):
        for controller in {"cpu", "cpuacct"}:
            directory = scene.node.group(controller, "/a")
            if directory.exists():
                directory.rmdir()
            directory.mkdir(exist_ok=True)
        scene.holds(5)
        time.sleep(0.3)


def at_any_moment(scene):
    """Someone removes, makes and retunes our groups in a hurry for five seconds; then all is right again."""
    running(scene, **{f"g{i}": 100 + i for i in range(12)})
    vandal = f"""
import os, random, time
random.seed(7)
places = {[str(scene.node.group("cpu", f"/g{i}")) for i in range(12)]!r}
end = time.time() + 5
while time.time() < end:
    place = random.choice(places)
    try:
        match random.randrange(4):
            case 0: os.rmdir(place)
            case 1: os.mkdir(place)
            case 2: open(place + "/{'cpu.weight' if kit.V2 else 'cpu.shares'}", "w").write("77")
            case 3: os.removexattr(place, "user.cgrove")
    except OSError:
        pass
    time.sleep(0.002)
"""
    subprocess.run(["/usr/bin/python3", "-c", vandal], check=True, timeout=60 * kit.PATIENCE)
    scene.holds(10)
    eventually(lambda: scene.node.run("plan").returncode == 0)


def injected(scene, errno):
    """`apply` with this error at its first mutating call, at its second, and so on; each time the next run converges."""
    node = scene.node
    node.configure()
    apply = [str(kit.CGROVE), "--config", str(node.config), "apply"]
    trees = [cpu_tree({"a": (100, {"inner": 30}), "b": 50}), cpu_tree({"a": 300, "c": (70, {"inner": 5})})]
    node.write_tree(trees[0])
    node.run("apply", check=0)
    count = 0
    for turn in range(1, 200):
        tree = trees[turn % 2]
        node.write_tree({**tree, "allow_removals": last_digest(node)})
        log = scene.directory / f"strace-{turn}"
        command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={SYSTEM_CALLS}", "-e", f"inject={SYSTEM_CALLS}:error={errno}:when={turn}", *apply]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60 * kit.PATIENCE)
        assert "panicked" not in result.stderr, result.stderr
        hit = "(INJECTED)" in log.read_text()
        log.unlink()
        node.run("apply", check=0)
        assert node.run("plan").returncode == 0, turn
        if not hit:
            break
        count += 1
    assert count >= 10, count
    scene.wanted = {"a": 100, "b": 50} if turn % 2 == 0 else {"a": 300, "c": 70}


def last_digest(node):
    import json

    kept = node.state / "last-good.json"
    return json.loads(kept.read_bytes().split(b"\n", 1)[0])["digest"] if kept.exists() else "0" * 16


FORKER = "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(0.01)\n        os._exit(0)\n    try:\n        while os.waitpid(-1, os.WNOHANG)[0]: pass\n    except ChildProcessError: pass\n    time.sleep(0.0005)"


def forkers(scene, rounds):
    """Four processes that never stop forking are drained out of a group that goes, again and again."""
    node = scene.node
    node.configure()
    here = [str(d / "cgroup.procs") for d in (node.group(c, "/going") for c in {"cpu", "cpuacct"})]
    loops = [scene.process("/usr/bin/python3", "-c", FORKER) for _ in range(4)]
    for turn in range(rounds):
        node.write_tree(cpu_tree({"stays": 100, "going": 50}))
        node.run("apply", check=0)
        for loop in loops:
            for place in here:
                kit.pathlib.Path(place).write_text(str(loop.pid))
        node.write_tree(cpu_tree({"stays": 100}))
        node.run("apply", check=0)
        assert not node.group("cpu", "/going").exists(), turn
    assert all(loop.poll() is None for loop in loops)
    scene.wanted = {"stays": 100}


def foreign_mount(scene, kind):
    """Another file system, or another group, mounted over one of ours: nothing is written through it, and it is said."""
    scene.start(scene.shares(a=100, b=50), cgroup={"resync": "3s"})
    scene.holds()
    target = scene.node.group("cpu", "/a")
    if kind == "tmpfs":
        elsewhere = scene.directory / "elsewhere"
        elsewhere.mkdir()
    else:
        elsewhere = next(d for d in scene.foreign if d.name == "foreign")
    file = elsewhere / ("cpu.weight" if kit.V2 else "cpu.shares")
    if kind == "tmpfs":
        file.write_text("1")
        (elsewhere / "cgroup.procs").write_text("")
    before = file.read_text() if file.exists() else None
    subprocess.run(["mount", "--bind", elsewhere, target], check=True)
    try:
        scene.node.write_tree(cpu_tree({"a": (900, {"fresh": 5}), "b": 70}))
        scene.wanted = {"b": 70}
        scene.holds()
        said = lambda: [n for n in scene.node.status()["plan"]["notes"] + scene.node.status()["plan"]["failures"] if n["group"] == "/a" and "mount" in (n.get("text") or n.get("error"))]
        assert eventually(said)
        assert not (elsewhere / "fresh").exists() and not kit.mark(elsewhere)
        assert before is None or file.read_text() == before
    finally:
        subprocess.run(["umount", target], check=True)
    scene.wanted = {"a": 900, "b": 70}
    scene.holds(70)


def symlink_as_tree(scene):
    """A link on the way to what is managed: the hierarchies are taken from the mounts, never through links."""
    link = scene.directory / "cgroups"
    link.symlink_to(kit.CGROUPS)
    scene.start(scene.shares(a=100, b=50), cgroup={"dir": str(link)})
    scene.holds()
    real = scene.node.group("cpu", "/a")
    assert real.is_dir() and not real.is_symlink()
    assert re.match(r"/sys/fs/cgroup", os.path.realpath(real))
