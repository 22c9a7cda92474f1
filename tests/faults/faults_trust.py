"""Who may write below the parent: marks, locks, neighbours and the guard. `nobody` owns a group, as delegation gives it."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import textwrap
import time

import kit
from kit import cpu_tree, eventually, never
from scene import CONTROLLERS, WITNESS

NOBODY = 65534
WEIGHT = "cpu.weight" if kit.V2 else "cpu.shares"
# A limit that the documents here leave alone.
LIMIT, ROOTS, OPEN = ("cpu.max", "50000 100000", "max 100000") if kit.V2 else ("cpu.cfs_quota_us", "50000", "-1")


def running(scene, document, **settings):
    scene.start(document, **settings)
    scene.holds()


def groups(**knobs):
    """A document by group, whose cpu groups have no knobs but these."""
    return {"controllers": ["cpu"], "groups": {name: {"knobs": k} for name, k in knobs.items()}}


def delegate(scene, path):
    """Root gives a group's directory away; its files stay root's."""
    for controller in CONTROLLERS:
        os.chown(scene.node.group(controller, path), NOBODY, NOBODY)


def nobody(script, *arguments, check=True):
    """What a user without rights does."""
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", textwrap.dedent(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60 * kit.PATIENCE)
    assert not check or result.returncode == 0, result.stderr
    return result


def forge(scene, path, files=None, text=None, format=2, **fields):
    """A mark as the daemon would have made it, but for what only root knows."""
    mark = {"mac": "0" * 64, "format": format, "instance": "cgrove", "parent": scene.parent, "group": path, "files": files or {}, **fields}
    for controller in CONTROLLERS:
        directory = scene.node.group(controller, path)
        mark["parent_inode"] = scene.node.group(controller).stat().st_ino
        value = json.dumps(mark) if text is None else text
        nobody("import os, sys; os.setxattr(sys.argv[1], 'user.cgrove', sys.argv[2].encode())", directory, value)


def theirs(scene, path="/theirs", shares="64"):
    """Root's own group, made by hand, with a knob and a process."""
    for controller in CONTROLLERS:
        scene.node.make(controller, path)
    (scene.node.group("cpu", path) / WEIGHT).write_text(shares)
    process = scene.process("sleep", "infinity")
    scene.node.put(process.pid, path, CONTROLLERS)
    return process.pid, kit.real_place(process.pid)


def stays(scene, path, pid, place, shares="64"):
    return scene.node.read("cpu", path, WEIGHT) == shares and kit.real_place(pid) == place


def rounds(scene, n=2):
    """Waits for so many more whole rounds, each asked for by drift."""
    for _ in range(n):
        before = scene.node.status()["plan"]["rounds"]
        scene.node.set_shares(f"/{next(iter(scene.wanted))}", 9)
        eventually(lambda: scene.node.status()["plan"]["rounds"] > before and scene.is_so())


# -- marks


def forged_ownership(scene, format, marks="auto", protected=None):
    """Root's own unmarked group, given to a user who marks it as ours."""
    running(scene, scene.shares(b=50), cgroup={"marks": marks, **({"protected": [protected]} if protected else {})})
    path = f"/{protected}/theirs" if protected else "/theirs"
    pid, place = theirs(scene, path)
    delegate(scene, path)
    forge(scene, path, format=format)
    rounds(scene)
    assert stays(scene, path, pid, place)
    scene.restart()
    rounds(scene)
    assert stays(scene, path, pid, place)


def forged_undo(scene, format):
    """The mark says that we had set what root has set by hand."""
    scene.node.write_tree(groups(a={}, b={WEIGHT: 50}))
    scene.wanted = {}
    scene.start()
    eventually(lambda: scene.node.group("cpu", "/a").is_dir())
    limit = scene.node.group("cpu", "/a") / LIMIT
    limit.write_text(ROOTS)
    delegate(scene, "/a")
    forge(scene, "/a", {LIMIT: {"want": ROOTS}}, format=format)
    for turn in range(3):
        scene.node.write_tree(groups(a={}, b={WEIGHT: 60 + turn}))
        eventually(lambda: scene.node.read("cpu", "/b", WEIGHT) == str(60 + turn))
        assert limit.read_text().strip() == ROOTS


def unreadable_mark(scene, text):
    """A mark that nobody can read, or that names others, must not keep a document from being applied."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    text = text.replace("PARENT", scene.parent)
    forge(scene, "/a", text=text)
    scene.node.write_tree(scene.shares(a=300, b=50))
    scene.holds()
    scene.restart()
    scene.node.write_tree(scene.shares(a=400, b=50))
    scene.holds()
    assert not [n for n in scene.node.status()["plan"]["notes"] if "refused" in n["text"]]


def path_in_mark(scene, kind):
    """A mark that names a FIFO, or a file without an end, instead of a knob."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    target = scene.directory / "target"
    os.mkfifo(target, 0o666) if kind == "fifo" else target.touch()
    if kind != "fifo":
        os.truncate(target, 700 << 20)
    name = "../" * 12 + str(target).lstrip("/")
    for format in (1, 2):
        forge(scene, "/a", {name: {"want": "1"}}, format=format)
        scene.node.write_tree(scene.shares(a=100 + format, b=50))
        scene.holds()
    assert scene.node.run("plan").returncode == 0
    scene.restart()
    scene.node.write_tree(scene.shares(a=500, b=50))
    scene.holds()
    assert peak(scene.node.process.pid) < 300 << 10


def peak(pid):
    """The most memory that a process ever had, KiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def forged_kept(scene, format):
    """The mark says that the kernel makes 77 of what we want: drift to 77 is repaired all the same."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    want = scene.node.read("cpu", "/a", WEIGHT)
    forge(scene, "/a", {WEIGHT: {"want": want, "kept": "77"}}, format=format)
    (scene.node.group("cpu", "/a") / WEIGHT).write_text("77")
    scene.holds(5)


def forged_device_rules(scene):
    """A devices group that root locked by hand stays locked (v1)."""
    if kit.V2 or "devices" not in kit.MOUNTS:
        return
    scene.node.write_tree({"controllers": ["cpu", "devices"], "groups": {"a": {"knobs": {WEIGHT: 100}}}})
    scene.wanted = {}
    scene.start(**{"": {"keep_capabilities": ["CAP_SYS_ADMIN"]}})
    locked = scene.node.group("devices", "/a")
    eventually(locked.is_dir)
    (locked / "devices.deny").write_text("a")
    assert (locked / "devices.list").read_text() == ""
    os.chown(locked, NOBODY, NOBODY)
    for format in (1, 2):
        mark = {"format": format, "instance": "cgrove", "parent": scene.parent, "files": {"devices.list": {"want": "deny a"}}}
        nobody("import os, sys; os.setxattr(sys.argv[1], 'user.cgrove', sys.argv[2].encode())", locked, json.dumps(mark))
        scene.node.write_tree({"controllers": ["cpu", "devices"], "groups": {"a": {"knobs": {WEIGHT: 100 + format}}}})
        eventually(lambda: scene.node.read("cpu", "/a", WEIGHT) == str(100 + format))
        assert (locked / "devices.list").read_text() == ""


def fat_marks(scene, count):
    """Large marks on many groups of a user cost the daemon next to nothing."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    nobody(
        """
        import json, os, sys
        for top in sys.argv[4:]:
            for i in range(int(sys.argv[1])):
                path = f"{top}/fat{i}"
                os.mkdir(path)
                files = {f"cpu.{'x' * 40}{n}": {"want": "y" * 20} for n in range(700)}
                mark = {"format": 1, "instance": "cgrove", "parent": sys.argv[2], "files": files}
                os.setxattr(path, "user.cgrove", json.dumps(mark).encode())
        """,
        count, scene.parent, "", *[scene.node.group(c, "/a") for c in CONTROLLERS],
    )
    rounds(scene, 1)
    before = seconds(scene.node.process.pid)
    rounds(scene, 3)
    spent = seconds(scene.node.process.pid) - before
    assert spent < kit.PATIENCE, spent


def seconds(pid):
    """CPU time."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forged_crowd(scene, format):
    """Sixty forged groups in a user's group do not get root's own removals held."""
    running(scene, scene.shares(**{f"g{i}": 100 + i for i in range(10)}))
    delegate(scene, "/g0")
    nobody(
        """
        import json, os, sys
        for top in sys.argv[3:]:
            for i in range(60):
                os.mkdir(f"{top}/x{i}")
                mark = {"format": int(sys.argv[1]), "instance": "cgrove", "parent": sys.argv[2], "files": {}}
                os.setxattr(f"{top}/x{i}", "user.cgrove", json.dumps(mark).encode())
        """,
        format, scene.parent, *[scene.node.group(c, "/g0") for c in CONTROLLERS],
    )
    scene.node.write_tree(scene.shares(**{f"g{i}": 100 + i for i in range(8)}))
    eventually(lambda: not scene.node.group("cpu", "/g9").exists() and not scene.node.group("cpu", "/g8").exists())
    assert scene.node.group("cpu", "/g0/x59").is_dir()


def paused(scene):
    return kit.frozen(scene.node.process)


RENAME = "import os, sys; [os.rename(f'{top}/{sys.argv[1]}', f'{top}/{sys.argv[2]}') for top in sys.argv[3:]]"


def renamed_onto_declared(scene):
    """v1: root's group, in a directory that a user owns, is renamed to a name that the document declares."""
    if kit.V2:
        return
    running(scene, cpu_tree({"a": (100, {"d": 30}), "b": 50}))
    scene.wanted = {"a": 100, "b": 50}
    scene.holds()
    pid, place = theirs(scene, "/a/byhand")
    delegate(scene, "/a")
    tops = [scene.node.group(c, "/a") for c in CONTROLLERS]
    with paused(scene):
        nobody("import os, sys; [os.rmdir(f'{top}/d') for top in sys.argv[1:]]", *tops)
        nobody(RENAME, "byhand", "d", *tops)
    rounds(scene)
    where = kit.real_place(pid)
    assert scene.node.read("cpu", "/a/d", WEIGHT) == "64" and where.endswith("/a/d")
    assert eventually(lambda: [n for n in scene.node.status()["plan"]["notes"] if n["group"] == "/a/d" and "renamed" in n["text"]])
    # It leaves the document: root's group is still nobody's.
    scene.node.write_tree(cpu_tree({"a": 100, "b": 50}))
    rounds(scene)
    assert kit.real_place(pid) == where and kit.mark(scene.node.group("cpu", "/a/d")) is None


def renamed_ours(scene):
    """v1: a group of ours that a user renames is not removed under its new name, and is made again under its own."""
    if kit.V2:
        return
    running(scene, cpu_tree({"a": (100, {"d": 30}), "b": 50}))
    scene.wanted = {"a": 100, "b": 50}
    delegate(scene, "/a")
    process = scene.process("sleep", "infinity")
    scene.node.put(process.pid, "/a/d", CONTROLLERS)
    tops = [scene.node.group(c, "/a") for c in CONTROLLERS]
    nobody(RENAME, "d", "z", *tops)
    eventually(lambda: scene.node.shares("/a/d") == 30)
    rounds(scene)
    assert kit.real_place(process.pid).endswith("/a/z") and scene.node.shares("/a/z") == 30


def exchanged_ours(scene):
    """v1: two groups of ours change their names: each gets what the document says of its new name."""
    if kit.V2:
        return
    running(scene, cpu_tree({"a": (100, {"d": 30, "e": 700}), "b": 50}))
    scene.wanted = {"a": 100, "b": 50}
    delegate(scene, "/a")
    tops = [scene.node.group(c, "/a") for c in CONTROLLERS]
    with paused(scene):
        nobody(RENAME, "d", "x", *tops)
        nobody(RENAME, "e", "d", *tops)
        nobody(RENAME, "x", "e", *tops)
    eventually(lambda: scene.node.shares("/a/d") == 30 and scene.node.shares("/a/e") == 700)
    assert not [n for n in scene.node.status()["plan"]["notes"] if "refused" in n["text"]]


CAROUSEL = """
import os, sys, time
end = time.time() + 5
while time.time() < end:
    for old, new in [("d", "z"), ("byhand", "d"), ("d", "byhand"), ("z", "d")]:
        for top in sys.argv[1:]:
            try:
                os.rename(f"{top}/{old}", f"{top}/{new}")
            except OSError:
                pass
"""


def renamed_all_the_time(scene):
    """v1: a user puts root's group in the place of a declared one and back as fast as he can, while documents change."""
    if kit.V2:
        return
    running(scene, cpu_tree({"a": (100, {"d": 30}), "b": 50}))
    scene.wanted = {"a": 100, "b": 50}
    pid, place = theirs(scene, "/a/byhand")
    inodes = {c: scene.node.group(c, "/a/byhand").stat().st_ino for c in CONTROLLERS}
    delegate(scene, "/a")
    tops = [scene.node.group(c, "/a") for c in CONTROLLERS]
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    racer = scene.process(*user, "/usr/bin/python3", "-c", CAROUSEL, *map(str, tops))
    turn = 0
    while racer.poll() is None:
        turn += 1
        scene.node.write_tree(cpu_tree({"a": (100, {"d": 300 + turn}), "b": 50}))
        time.sleep(0.02)
    assert turn > 30
    for controller in CONTROLLERS:
        [root_s] = [d for d in scene.node.group(controller, "/a").iterdir() if d.is_dir() and d.stat().st_ino == inodes[controller]]
        assert kit.mark(root_s) is None
        assert controller != "cpu" or (root_s / WEIGHT).read_text().strip() == "64"
        assert pid in map(int, (root_s / "cgroup.procs").read_text().split())


def named_like_a_leaf(scene):
    """v1: root's group that a user renames to what v2's leaves are called stays as any other does."""
    if kit.V2:
        return
    running(scene, groups(a={"cpu.weight": 10}, b={"cpu.weight": 5}))
    delegate(scene, "/a")
    pid, _ = theirs(scene, "/a/byhand")
    nobody(RENAME, "byhand", "_tasks", *[scene.node.group(c, "/a") for c in CONTROLLERS])
    scene.node.write_tree(groups(b={"cpu.weight": 5}))
    eventually(lambda: any(n["group"] == "/a" for n in scene.node.status()["plan"]["notes"]))
    time.sleep(1)
    assert stays(scene, "/a/_tasks", pid, kit.real_place(pid)) and kit.real_place(pid).endswith("/a/_tasks")


def leaf_of_a_user(scene):
    """v2: nobody is put into a leaf that a user made, where he may freeze and kill it."""
    if not kit.V2:
        return
    named = scene.process("sleep", "600")
    running(scene, groups(a={"cpu.weight": 10}), pid_files={"a": scene.node.pid_file("x.pid", "")})
    delegate(scene, "/a")
    nobody("import os, sys; os.mkdir(sys.argv[1] + '/_tasks')", scene.node.group("cpu", "/a"))
    scene.members.add(named.pid)
    scene.node.pid_file("x.pid", named.pid)
    eventually(lambda: kit.real_place(named.pid).endswith("/a"))
    scene.node.write_tree(groups(a={"cpu.weight": 11}))
    eventually(lambda: [n for n in scene.node.status()["plan"]["notes"] if "_tasks" in n["text"]])
    # Root's command goes the same way.
    shown = scene.node.run("exec", "a", "--", "cat", "/proc/self/cgroup").stdout
    assert shown.strip().endswith("/a"), shown


def threaded_by_a_user(scene):
    """v2: a user spreads threads below his group: the document goes on being applied to the group itself."""
    if not kit.V2:
        return
    running(scene, groups(a={"cpu.weight": 10}))
    delegate(scene, "/a")
    nobody("import os, sys; d = sys.argv[1] + '/t'; os.mkdir(d); open(d + '/cgroup.type', 'w').write('threaded')", scene.node.group("cpu", "/a"))
    assert scene.node.read("cpu", "/a", "cgroup.type") == "domain threaded"
    scene.node.write_tree(groups(a={"cpu.weight": 20}))
    eventually(lambda: scene.node.read("cpu", "/a", "cpu.weight") == "20")


def declared_by_a_user(scene, how):
    """A user puts a group of his own in a declared one's place: root's processes are not put there, nor commands."""
    named = scene.process("sleep", "600")
    scene.members.add(named.pid)
    document = groups(a={}, b={"cpu.weight": 5})
    document["groups"]["a"]["groups"] = {"a1": {"pid_files": [scene.node.pid_file("x.pid", named.pid if how == "renamed" else "")]}}
    document["controllers"] = CONTROLLERS
    running(scene, document)
    inside = lambda: "/a/a1" in kit.real_place(named.pid)
    if how == "renamed":
        eventually(inside)
    delegate(scene, "/a")
    tops = [scene.node.group(c, "/a") for c in CONTROLLERS]
    if how == "renamed" and not kit.V2:
        nobody("import os, sys\nfor top in sys.argv[1:]:\n    os.rename(top + '/a1', top + '/x')\n    os.mkdir(top + '/a1')", *tops)
    else:
        nobody("import os, sys\nfor top in sys.argv[1:]:\n    os.rmdir(top + '/a1')\n    os.mkdir(top + '/a1')", *tops, check=how != "renamed")
        if how == "renamed":
            return
        scene.node.pid_file("x.pid", named.pid)
    eventually(lambda: any(f"pid {named.pid} " in line and "could freeze and kill it" in line for line in scene.node.status()["tasks"]["left_alone"]))
    assert not inside()
    result = scene.node.run("exec", "/a/a1", "--", "true")
    assert result.returncode == 125 and "controls the group" in result.stderr, result


SUBREAPER = """
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.Popen([sys.argv[1], "--reuid", "0", "--regid", "0", "--clear-groups", "sleep", "600"])
time.sleep(600)
"""


def others_below_a_users_process(scene):
    """A set-user-ID program that a user's process began becomes root's: it does not follow the user's pid file."""
    directory = pathlib.Path(scene.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
    directory.chmod(0o755)
    tool = shutil.copy("/usr/bin/setpriv", directory / "tool")
    os.chmod(tool, 0o4755)
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    parent = scene.process(*user, "/usr/bin/python3", "-c", SUBREAPER, tool)
    children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = int(eventually(lambda: children.read_text().split())[0])
    eventually(lambda: pathlib.Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    scene.members.add(parent.pid)
    at = kit.real_place(child)
    file = scene.node.pid_file("x.pid", parent.pid)
    os.chown(file, NOBODY, NOBODY)
    scene.start(groups(a={"cpu.weight": 10}), pid_files={"a": file})
    eventually(lambda: kit.real_place(parent.pid).endswith("/a"))
    eventually(lambda: any(f"pid {child} " in line and "is not his" in line for line in scene.node.status()["tasks"]["left_alone"]))
    assert kit.real_place(child) == at


def mark_removed(scene, stopped):
    """The user removes the mark of the group that he was given: it goes with the document all the same."""
    running(scene, scene.shares(a=100, b=50, c=70))
    delegate(scene, "/a")
    if stopped:
        scene.restart()
    scene.node.write_tree(scene.shares(a=110, b=50, c=70))
    scene.holds()
    nobody("import os, sys\nfor top in sys.argv[1:]:\n    try: os.removexattr(top, 'user.cgrove')\n    except OSError: pass", *[scene.node.group(c, "/a") for c in CONTROLLERS])
    scene.node.write_tree(scene.shares(b=50, c=70))
    eventually(lambda: not scene.node.group("cpu", "/a").exists())


def mark_replayed(scene):
    """The user puts a mark back that we wrote earlier, when we had set what root has set by hand since."""
    scene.wanted = {}
    scene.start(groups(a={"cpu.max": ROOTS if kit.V2 else f"{ROOTS} 100000"}, b={WEIGHT: 50}))
    eventually(lambda: scene.node.read("cpu", "/a", LIMIT) == ROOTS)
    directory = scene.node.group("cpu", "/a")
    old = os.getxattr(directory, "user.cgrove")
    delegate(scene, "/a")
    scene.node.write_tree(groups(a={}, b={WEIGHT: 51}))
    eventually(lambda: scene.node.read("cpu", "/a", LIMIT) == OPEN)
    (directory / LIMIT).write_text(ROOTS)
    for turn in range(2):
        nobody("import os, sys; os.setxattr(sys.argv[1], 'user.cgrove', bytes.fromhex(sys.argv[2]))", directory, old.hex())
        scene.node.write_tree(groups(a={}, b={WEIGHT: 60 + turn}))
        eventually(lambda: scene.node.read("cpu", "/b", WEIGHT) == str(60 + turn))
        assert scene.node.read("cpu", "/a", LIMIT) == ROOTS


def mark_carried(scene):
    """The user copies a mark of ours to root's group, whose directory he was given."""
    running(scene, scene.shares(a=100, b=50))
    pid, place = theirs(scene)
    delegate(scene, "/theirs")
    for controller in CONTROLLERS:
        mark = os.getxattr(scene.node.group(controller, "/a"), "user.cgrove")
        nobody("import os, sys; os.setxattr(sys.argv[1], 'user.cgrove', bytes.fromhex(sys.argv[2]))", scene.node.group(controller, "/theirs"), mark.hex())
    rounds(scene)
    assert stays(scene, "/theirs", pid, place)


def given_back(scene):
    """Root takes a delegated directory back: what its user forged meanwhile counts for nothing."""
    running(scene, scene.shares(a=100, b=50))
    pid, place = theirs(scene)
    delegate(scene, "/theirs")
    for format in (1, 2):
        forge(scene, "/theirs", {WEIGHT: {"want": "64"}}, format=format)
        for controller in CONTROLLERS:
            os.chown(scene.node.group(controller, "/theirs"), 0, 0)
        rounds(scene)
        assert stays(scene, "/theirs", pid, place)
        delegate(scene, "/theirs")


def adopted_from_a_user(scene):
    """A user makes a group in his own directory that the document declares later: it is tuned, and goes with the document."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    nobody("import os, sys; [os.mkdir(f'{top}/mine') for top in sys.argv[1:]]", *[scene.node.group(c, "/a") for c in CONTROLLERS])
    scene.node.write_tree(cpu_tree({"a": (100, {"mine": 300}), "b": 50}))
    eventually(lambda: scene.node.shares("/a/mine") == 300)
    scene.restart()
    scene.node.write_tree(cpu_tree({"a": 100, "b": 50}))
    eventually(lambda: not scene.node.group("cpu", "/a/mine").exists())


def racing_owner(scene):
    """Who owns a knob's file writes it as fast as he can: what stood there when we looked is not taken for the kernel's."""
    running(scene, scene.shares(a=100, b=50))
    delegate(scene, "/a")
    file = scene.node.group("cpu", "/a") / WEIGHT
    os.chown(file, NOBODY, NOBODY)
    script = "import os, sys, time\nfd = os.open(sys.argv[1], os.O_WRONLY)\nend = time.time() + 4\nwhile time.time() < end: os.pwrite(fd, b'77', 0)"
    nobody(script, file)
    scene.holds(70)
    assert "kept" not in json.dumps(kit.mark(scene.node.group("cpu", "/a")) or {})


# -- the secret


def secret_lost(scene, how):
    """Groups that were marked before count as unmarked: none is removed, it is said, and those declared are adopted."""
    running(scene, scene.shares(a=100, b=50, c=70))
    scene.node.stop()
    secret = scene.node.state / "secret"
    whole = secret.read_bytes()
    secret.unlink() if how == "gone" else secret.write_bytes(whole[: len(whole) // 2])
    # Else all that it declares would be adopted first.
    (scene.node.state / "last-good.json").unlink()
    scene.node.write_tree(scene.shares(a=300, b=50))
    scene.node.start()
    scene.holds()
    assert eventually(lambda: [n for n in scene.node.status()["plan"]["notes"] if "unmarked" in n["text"]])
    assert "unmarked" in scene.node.log.read_text()
    rounds(scene)
    assert scene.node.shares("/c") == 70
    # What is adopted now is ours again.
    if how == "gone":
        scene.restart()
        scene.node.write_tree(scene.shares(b=50))
        eventually(lambda: not scene.node.group("cpu", "/a").exists())
    assert scene.node.group("cpu", "/c").is_dir()


def earlier_version(scene):
    """Marks of the version before this one are taken over once, and not again."""
    running(scene, scene.shares(a=100, b=50, c=70, d=80))
    scene.node.stop()
    shutil.rmtree(scene.node.state)
    plain = {"format": 1, "instance": "cgrove", "parent": scene.parent, "files": {WEIGHT: {"want": "1"}}}
    for controller in CONTROLLERS:
        for name in "abcd":
            os.setxattr(scene.node.group(controller, f"/{name}"), "user.cgrove", json.dumps(plain).encode())
    scene.node.write_tree(scene.shares(a=100, b=50, d=80))
    scene.node.start()
    eventually(lambda: not scene.node.group("cpu", "/c").exists())
    scene.holds()
    for controller in CONTROLLERS:
        directory = scene.node.make(controller, "/late")
        os.setxattr(directory, "user.cgrove", json.dumps(plain).encode())
    scene.restart()
    rounds(scene)
    assert scene.node.group("cpu", "/late").is_dir()
    # What was taken over is still ours, by its new mark.
    scene.node.write_tree(scene.shares(a=100, b=50))
    eventually(lambda: not scene.node.group("cpu", "/d").exists())


def marked_again(scene, how):
    """Marks that are not believed any more: what is declared is ours again in every hierarchy, knobs or not, and goes later."""
    running(scene, scene.shares(a=100, b=50, c=70))
    scene.node.stop()
    if how == "state lost":
        shutil.rmtree(scene.node.state)
    else:
        # By an earlier version, for which this one had the tree before and after.
        plain = {"format": 1, "instance": "cgrove", "parent": scene.parent, "files": {}}
        for controller in CONTROLLERS:
            for name in "abc":
                os.setxattr(scene.node.group(controller, f"/{name}"), "user.cgrove", json.dumps(plain).encode())
    scene.node.start()
    scene.holds()
    rounds(scene)
    assert not [n for n in scene.node.status()["plan"]["notes"] if "did not make" in n["text"]]
    assert scene.node.json("plan", check=0)["actions"] == []
    scene.node.write_tree(scene.shares(a=100, b=50))
    eventually(lambda: not any(scene.node.group(controller, "/c").exists() for controller in CONTROLLERS))


def cgexec_beside_a_daemon(scene):
    """Where marks live in the state directory, that is the daemon's: `cgexec --create` leaves it alone, and the daemon marks."""
    running(scene, scene.shares(a=100, b=50), cgroup={"marks": "state_dir"})
    ledger = scene.node.state / "ledger"
    with paused(scene):
        for controller in CONTROLLERS:
            scene.node.group(controller, "/a").rmdir()
        before = ledger.read_bytes()
        scene.node.run("cgexec", "--create", "a", check=0)
        assert scene.node.group("cpu", "/a").is_dir() and ledger.read_bytes() == before
    rounds(scene)
    scene.restart()
    scene.node.write_tree(scene.shares(b=50))
    eventually(lambda: not scene.node.group("cpu", "/a").exists())


# -- locks

FLOCK = """
import fcntl, os, sys, time
for path in sys.argv[1:]:
    try:
        fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("taken:", path)
print("locked", flush=True)
time.sleep(600)
"""


def holder(scene, *paths):
    """A user who holds exclusive locks on directories."""
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", FLOCK, *map(str, paths)]
    process = scene.process(*command, stdout=subprocess.PIPE, text=True)
    lines = list(iter(process.stdout.readline, "locked\n"))
    # Another test's daemon, of a version that locks directories, may hold a hierarchy's root.
    assert len(lines) < len(paths), lines


def locked_directories(scene):
    """A user holds locks on the hierarchies' directories, and on the parent's."""
    tops = {kit.MOUNTS[c] for c in CONTROLLERS} | {scene.node.make(c, "/") for c in CONTROLLERS}
    holder(scene, *tops)
    running(scene, scene.shares(a=100, b=50))


SPIN = """
import fcntl, os, sys, time
end = time.time() + float(sys.argv[1])
while time.time() < end:
    for path in sys.argv[2:]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
print("ended", flush=True)
"""


def lock_lost(scene):
    """The parent is made anew again and again, and a user is as fast as he can to lock it: the daemon goes on."""
    running(scene, scene.shares(a=100, b=50))
    parents = [scene.node.group(c) for c in CONTROLLERS]
    racer = scene.process("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", SPIN, "4", *map(str, parents), stdout=subprocess.PIPE)
    scene.foreign, scene.bystanders = {}, {}
    while racer.poll() is None:
        kit.remove_cgroups(scene.parent)
        time.sleep(0.3)
    scene.holds()
    assert scene.node.process.poll() is None


def lock_files_removed(scene):
    """Somebody with root's rights clears the runtime directory away: the daemon goes on, and the next start is right."""
    running(scene, scene.shares(a=100, b=50))
    for file in pathlib.Path("/run/cgrove/locks").glob("*"):
        if scene.parent.strip("/") in file.name:
            file.unlink()
    rounds(scene)
    scene.restart()
    rounds(scene)


# -- the guard, and neighbours


def crowd_and_guard(scene):
    """Sixty empty groups of a user do not turn a removal of 19 of 20 groups into a small one."""
    running(scene, scene.shares(**{f"g{i}": 100 + i for i in range(20)}))
    delegate(scene, "/g0")
    nobody("import os, sys; [os.mkdir(f'{top}/x{i}') for top in sys.argv[1:] for i in range(60)]", *[scene.node.group(c, "/g0") for c in CONTROLLERS])
    everything = dict(scene.wanted)
    scene.node.write_tree(cpu_tree({"g0": 100}))
    eventually(lambda: (scene.node.status()["plan"]["guard"] or {}).get("approved") is False)
    scene.wanted = everything
    assert scene.is_so()


def within_a_container(scene):
    """A second cgrove with the same settings, in a cgroup namespace below a group of the first: each keeps to its own."""
    running(scene, scene.shares(a=100, b=50))
    inner = kit.Node(scene.directory / "inner", scene.parent)
    mounts = scene.directory / "mounts"
    mounts.mkdir()
    inner.configure(cgroup={"dir": str(mounts), "resync": "1s"})
    inner.write_tree(cpu_tree({"x": 300, "y": 40}))
    join = "; ".join(f"echo $$ > {scene.node.group(c, '/a')}/cgroup.procs" for c in CONTROLLERS)
    if kit.V2:
        # A group that has groups below holds no process itself.
        mount = f"mount -t cgroup2 none {mounts}; mkdir -p {mounts}/init; echo 0 > {mounts}/init/cgroup.procs"
    elif kit.MOUNTS["cpu"] == kit.MOUNTS["cpuacct"]:
        mount = f"mkdir {mounts}/cpu; mount -t cgroup -o cpu,cpuacct none {mounts}/cpu"
    else:
        mount = "; ".join(f"mkdir {mounts}/{c}; mount -t cgroup -o {c} none {mounts}/{c}" for c in CONTROLLERS)
    script = f"{join}; exec unshare --cgroup --mount sh -c '{mount}; mount -t tmpfs -o mode=755 none /run/cgrove; exec {kit.CGROVE} run --config {inner.config}'"
    log = open(scene.directory / "inner.log", "wb")
    scene.members.add(scene.process("sh", "-c", script, stdout=log, stderr=log).pid)
    at = lambda name: scene.node.group("cpu", f"/a{scene.parent}/{name}")
    eventually(lambda: kit.Shares(at("x")) == 300 and kit.Shares(at("y")) == 40)
    inodes = [at(name).stat().st_ino for name in "xy"]
    for turn in range(2):
        scene.node.write_tree(scene.shares(a=100, b=60 + turn))
        scene.holds()
        rounds(scene)
        time.sleep(1)
    assert [at(name).stat().st_ino for name in "xy"] == inodes
    assert never(lambda: at("x").stat().st_ino != inodes[0], during=2)
