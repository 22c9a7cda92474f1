"""The daemon itself: killed anywhere, twice, out of disk, out of time, out of descriptors, older and newer."""

import json
import os
import pathlib
import signal
import subprocess
import time

import kit
from faults_kernel import SYSTEM_CALLS, last_digest
from faults_reload import bad_address, bad_secret, held_parent, nested_parent, stuck_at_stop  # noqa: F401 - rows name them
from kit import cpu_tree, eventually


def running(scene, **settings):
    scene.start(scene.shares(a=100, b=50), **settings)
    scene.holds()


def killed_at_each_call(scene):
    """SIGKILL at the first mutating system call of a reconcile, at the second, and so on: the next run converges."""
    node = scene.node
    node.configure()
    trees = [cpu_tree({"a": (100, {"inner": 30}), "b": 50}), cpu_tree({"a": 300, "c": (70, {"inner": 5})})]
    apply = [str(kit.CGROVE), "--config", str(node.config), "apply"]
    node.write_tree(trees[0])
    node.run("apply", check=0)
    killed = 0
    for turn in range(1, 200):
        node.write_tree({**trees[turn % 2], "allow_removals": last_digest(node)})
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={SYSTEM_CALLS}", "-e", f"inject={SYSTEM_CALLS}:signal=KILL:when={turn}", *apply]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60 * kit.PATIENCE)
        node.run("apply", check=0)
        assert node.run("plan").returncode == 0, turn
        if result.returncode in (0, 69):
            break
        killed += 1
    assert killed >= 10, killed
    scene.wanted = {"a": 100, "b": 50} if turn % 2 == 0 else {"a": 300, "c": 70}


def killed_daemon(scene, times):
    """kill -9 while documents change; each start converges."""
    running(scene)
    for turn in range(times):
        scene.node.write_tree(scene.shares(**{"a": 100 + turn, f"b{turn}": 50}))
        time.sleep(0.003 * turn)
        scene.restart(signal.SIGKILL)
        scene.holds()


def two_daemons(scene):
    running(scene)
    second = kit.Node(scene.directory / "second", scene.parent)
    second.write_tree(cpu_tree({"c": 7}))
    result = second.run("run", check=69)
    assert f"pid {scene.node.process.pid}" in result.stderr
    inner = kit.Node(scene.directory / "inner", f"{scene.parent}/a")
    inner.write_tree(cpu_tree({"c": 7}))
    inner.run("run", check=69)
    assert not scene.node.group("cpu", "/c").exists() and not scene.node.group("cpu", "/a/c").exists()


def disk_full(scene):
    """The state directory takes nothing more: documents are applied all the same, and it is said."""
    state = scene.directory / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", state], check=True)
    scene.callback(subprocess.run, ["umount", "-l", state])
    running(scene, tree={"state_dir": str(state)})
    filler = os.open(state / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(filler, b"x" * 4096):
            pass
    except OSError:
        os.close(filler)
    document = scene.shares(**{f"group-with-a-long-name-{i}": 60 + i for i in range(60)}, a=300, b=50)
    scene.node.write_tree(document)
    scene.holds()
    eventually(lambda: "could not be kept" in scene.node.log.read_text())
    (state / "filler").unlink()
    scene.node.write_tree(scene.shares(a=400, b=50, **{k: v for k, v in scene.wanted.items() if k.startswith("group")}))
    scene.holds()
    scene.restart()
    scene.holds()


def torn_last_good(scene):
    """A file that was cut anywhere is noticed, and nothing is made of half a document."""
    tree = scene.zookeeper(document=scene.shares(a=100, b=50))
    scene.node.configure(zookeeper=tree)
    scene.start()
    scene.holds()
    scene.node.stop()
    tree.server.stop()
    whole = (scene.node.state / "last-good.json").read_bytes()
    for end in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (scene.node.state / "last-good.json").write_bytes(whole[:end])
        scene.node.start(ready=False)
        assert "last good document cannot be used" in scene.node.log.read_text()
        assert scene.node.status()["document"] is None and scene.is_so()
        scene.node.stop()


def clock_steps(scene, hours):
    """The wall clock jumps; slots stay unique and grow, and sampling goes on."""
    library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    clock = scene.directory / "clock"
    clock.write_text("+0")
    os.environ.update(LD_PRELOAD=str(library), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1")
    try:
        scene.start(scene.shares(a=100, b=50))
    finally:
        for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"):
            os.environ.pop(name)
    total = lambda: scene.node.status()["usage"]["slots_total"]
    newest = lambda: scene.node.status()["usage"]["newest_slot"]
    eventually(lambda: total() >= 2)
    before, measured = newest(), total()
    clock.write_text(f"{hours * 3600:+d}")
    eventually(lambda: total() >= measured + 3, timeout=10)
    assert newest() > before
    if hours > 0:
        assert newest() >= before + 3500
    slots = scene.slots() if hours < 0 else sorted(map(int, scene.node.ask("show_account", nr_slot=10)))
    assert slots == sorted(set(slots)) and slots
    scene.node.set_shares("/b", 9)
    scene.holds(5)


def descriptors_exhausted(scene):
    """A few more than none: groups are still made and measured, clients come and go, nothing dies."""
    scene.node.write_tree(scene.shares(**{f"g{i}": 100 + i for i in range(60)}))
    scene.node.configure()
    limited = ["prlimit", "--nofile=64:64", str(kit.CGROVE), "run", "--config", str(scene.node.config)]
    with open(scene.node.log, "ab") as log:
        scene.node.process = subprocess.Popen(limited, stdout=log, stderr=log, start_new_session=True)
    scene.holds(30)
    eventually(lambda: scene.node.http("/readyz")[0] == 200)
    crowd = []
    import socket

    for _ in range(80):
        sock = socket.socket()
        sock.settimeout(1)
        try:
            sock.connect(("127.0.0.1", scene.node.port))
        except OSError:
            pass
        crowd.append(sock)
    scene.node.set_shares("/g7", 9)
    time.sleep(1)
    for sock in crowd:
        sock.close()
    scene.holds(20)
    eventually(lambda: len(scene.slots()) >= 2, timeout=20)
    newest = json.loads(json.dumps(scene.node.ask("show_account", nr_slot=1)))
    slot = next(iter(newest.values()))
    assert len(slot["cpu"]["sub_cgroup"]) == 60, len(slot["cpu"]["sub_cgroup"])


def another_version(scene, format):
    """Groups that another cgrove made: an older one's marks are ours, a newer one's are respected."""
    running(scene)
    scene.node.stop()
    directory = scene.node.group("cpu", "/a")
    mark = kit.mark(directory)
    mark["format"] = format
    os.setxattr(directory, "user.cgrove", json.dumps(mark).encode())
    scene.node.write_tree(cpu_tree({"a": 900, "b": 60}))
    scene.wanted = {"b": 60}
    scene.node.start()
    scene.holds()
    if format > 1:
        eventually(lambda: any("newer" in json.dumps(n) for n in scene.node.status()["plan"]["notes"]))
        assert scene.node.shares("/a") == 100 and kit.mark(directory)["format"] == format
    else:
        scene.wanted = {"a": 900, "b": 60}
        scene.holds()


def bad_config_at_hup(scene):
    running(scene)
    good = scene.node.config.read_text()
    for bad in ("[cgroup]\nnonsense = 1\n", "not toml", "[server]\nlisten = \"192.0.2.1:1\"\n", "[tree]\ntrusted_keys = [\"/nowhere\"]\n"):
        said = scene.node.log.read_text().count("the configuration stays as it was")
        scene.node.config.write_text(bad if "=" not in bad or bad.startswith("not") else good.replace("[server]", bad + "[unused]", 1) if "server" in bad else good + bad)
        scene.node.process.send_signal(signal.SIGHUP)
        eventually(lambda: scene.node.log.read_text().count("the configuration stays as it was") > said)
        assert scene.node.http("/readyz")[0] == 200
    scene.node.config.write_text(good)
    scene.node.set_shares("/b", 9)
    scene.holds(5)
