"""Servers and files that are hostile rather than away."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time

import fakes
import kit
from kit import eventually

# The program has some 30 MiB resident, a debug build some more.
MEMORY = 150


def watched(scene):
    """Fails at once when the daemon ends, whatever is waited for."""
    scene.node.alive()
    return scene.node


def drift_is_repaired(scene, share=9):
    scene.node.set_shares("/b", share)
    scene.holds(6)


def quiet(scene):
    log = scene.node.log.read_text(errors="replace")
    assert "panicked" not in log, log[-3000:]
    return log


# -- ZooKeeper


def hostile_zookeeper(scene, mood, away=True, connections=15):
    """A good server turns bad for a while, and good again; the daemon is restarted meanwhile."""
    server = fakes.ZooKeeper(scene.shares(a=100, b=50))
    scene.callback(server.stop)
    scene.start(zookeeper=(server.hosts, server.prefix))
    scene.holds()
    server.turn(mood)
    if away:
        eventually(lambda: not watched(scene).status()["source"]["connected"], timeout=15)
    before, reads = fakes.cpu(scene.node.process.pid), server.reads
    came = server.came_within(5)
    assert came <= connections, f"{came} connections in 5 s"
    assert server.reads - reads <= 60, f"{server.reads - reads} reads in 5 s"
    assert fakes.cpu(scene.node.process.pid) - before < 2.5 * kit.PATIENCE
    watched(scene)
    drift_is_repaired(scene)
    assert fakes.peak(scene.node.process.pid) < MEMORY
    if away:
        # A node that starts now has its last good document.
        assert scene.node.stop() == 0
        scene.node.set_shares("/b", 8)
        scene.node.start(ready=False)
        scene.holds()
        error = eventually(lambda: watched(scene).status()["source"].get("error"), timeout=15)
        assert server.hosts in error, error
        assert fakes.peak(scene.node.process.pid) < MEMORY
    server.put(scene.shares(a=300, b=50))
    server.turn("good")
    scene.holds(25)
    eventually(lambda: watched(scene).status()["source"]["connected"])
    quiet(scene)


def a_session_is_taken_up(scene):
    """A connection that is lost costs no session; one that the server forgot is followed by a new one at once."""
    server = fakes.ZooKeeper(scene.shares(a=100, b=50))
    scene.callback(server.stop)
    scene.start(zookeeper=(server.hosts, server.prefix))
    scene.holds()
    assert server.sessions == [0]
    server.put(scene.shares(a=200, b=50))
    server.drop()
    scene.holds(5)
    assert server.sessions == [0, 0x1234], server.sessions
    server.put(scene.shares(a=300, b=50))
    server.turn("forgets")
    scene.holds(5)
    assert server.sessions == [0, 0x1234, 0x1234, 0], server.sessions


def loopback_ports(pid):
    """Ports of 127.0.0.1 at which a process listens."""
    sockets = set()
    for fd in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(fd.path))
    with open(f"/proc/{pid}/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def strangers_at_the_relay(scene):
    """The library's port is not for others."""
    server = fakes.ZooKeeper(scene.shares(a=100, b=50))
    scene.callback(server.stop)
    scene.start(zookeeper=(server.hosts, server.prefix))
    scene.holds()
    for mood in ("good", "closes"):
        if mood != "good":
            server.turn(mood)
            eventually(lambda: not watched(scene).status()["source"]["connected"], timeout=15)
        sessions = list(server.sessions)
        refused, until = 0, time.monotonic() + 3
        # While away there is a relay for each attempt.
        while refused < 60 and time.monotonic() < until:
            for port in loopback_ports(scene.node.process.pid) - {scene.node.port}:
                with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                    stranger.sendall(struct.pack(">i", 44) + bytes(44))
                    heard = stranger.recv(100)
                    assert heard == b"", heard
                refused += 1
        assert refused >= (20 if mood == "good" else 1), (mood, refused)
        assert server.sessions == sessions, server.sessions
        drift_is_repaired(scene, share=9 if mood == "good" else 8)
    server.put(scene.shares(a=300, b=50))
    server.turn("good")
    scene.holds(25)
    quiet(scene)


def a_hostile_one_is_replaced(scene):
    """A real server takes the port of one that sent garbage."""
    if kit.ZOOKEEPERS:
        import pytest

        pytest.skip("its servers cannot run in the guest, which has no Java")
    fake = fakes.ZooKeeper(scene.shares(a=100, b=50), mood="garbage")
    scene.callback(fake.stop)
    real = kit.LocalZooKeeper(scene.directory / "real")
    scene.start(zookeeper=(fake.hosts, fake.prefix), ready=False)
    eventually(lambda: watched(scene).status()["source"].get("error"))
    fake.stop()
    real.config.write_text(real.config.read_text().replace(f"clientPort={real.port}", f"clientPort={fake.port}"))
    real.port = fake.port
    scene.enter_context(kit.serving(real))
    client = real.client()
    scene.callback(client.close)
    scene.callback(client.stop)
    kit.Znode(client, real, fake.prefix).set(scene.shares(a=200, b=50))
    scene.holds(30)


def commands_against(scene, moods):
    """Commands that ask the source end with 69 and a reason, soon and small."""
    server = fakes.ZooKeeper(scene.shares(a=100, b=50))
    scene.callback(server.stop)
    scene.start(zookeeper=(server.hosts, server.prefix))
    scene.holds()
    tree = scene.directory / "tree.json"
    tree.write_bytes(server.document)
    for mood in moods:
        server.turn(mood)
        for command in (["check"], ["plan"], ["push", tree]):
            done = fakes.Finished(scene.node, *command)
            assert done.code == 69 and server.hosts in done.text and "panicked" not in done.text, (mood, command, done.code, done.text)
            assert done.peak < MEMORY, (mood, command, done.peak)
    server.turn("good")
    eventually(lambda: watched(scene).status()["source"]["connected"], timeout=25)


# -- files


def a_file_becomes(scene, what):
    """What stands in the document's place for a while is neither waited for nor read whole."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()
    tree, aside = scene.node.tree, scene.directory / "aside"
    good = tree.read_text()
    if what == "grows":
        writer = subprocess.Popen(["sh", "-c", "exec cat /dev/zero >>$0", tree])
        scene.callback(writer.wait)
        scene.callback(writer.kill)
        eventually(lambda: tree.stat().st_size > 1 << 21)
        eventually(lambda: not watched(scene).status()["source"]["connected"], timeout=8)
        writer.kill()
        writer.wait()
    else:
        if what == "sparse":
            aside.touch()
            os.truncate(aside, 3 << 29)
        elif what == "fifo":
            os.mkfifo(aside)
        elif what == "link-to-zero":
            aside.symlink_to("/dev/zero")
        elif what == "socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(aside))
            scene.callback(listener.close)
        elif what == "directory":
            tree.unlink()
            aside.mkdir()
        os.rename(aside, tree)
        eventually(lambda: not watched(scene).status()["source"]["connected"], timeout=8)
    error = scene.node.status()["source"]["error"]
    wanted = {"sparse": "1610612736 bytes", "fifo": "FIFO", "link-to-zero": "a device", "socket": "a socket", "directory": "a directory", "grows": "bytes"}
    assert str(tree) in error and wanted[what] in error, error
    drift_is_repaired(scene)
    if what == "directory":
        tree.rmdir()
    scene.wanted = {"a": 300, "b": 50}
    scene.node.write_tree(good.replace("100", "300"))
    scene.holds(1.5)
    assert fakes.peak(scene.node.process.pid) < MEMORY
    quiet(scene)


def the_directory_comes_later(scene):
    """The document's directory is made after the daemon started, renamed away and made again."""
    home = scene.directory / "later"
    scene.node.configure(tree={"path": str(home / "tree.json")})
    scene.wanted = {"a": 100}
    scene.start(ready=False)
    eventually(lambda: "does not exist" in scene.node.status()["source"].get("error", ""))
    for share in (100, 200):
        home.mkdir()
        scene.wanted = {"a": share}
        (home / "tree.json").write_text(kit.json.dumps(kit.cpu_tree({"a": share})))
        scene.holds(1.8)
        home.rename(scene.directory / f"gone-{share}")
        eventually(lambda: not scene.node.status()["source"]["connected"], timeout=4)


def commands_read_files(scene):
    """Whatever a command is told to read is looked at first: document, keys, configuration, standard input."""
    scene.start(scene.shares(a=100, b=50))
    node, here = scene.node, scene.directory
    sparse, fifo, zero, socket_file = here / "sparse", here / "fifo", here / "zero", here / "socket"
    sparse.touch()
    os.truncate(sparse, 3 << 29)
    os.mkfifo(fifo)
    zero.symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_file))
    scene.callback(listener.close)
    for bad, code in ((sparse, 65), (fifo, 66), (zero, 66), (socket_file, 66), (here, 66)):
        for command in ("check", "plan", "convert"):
            done = fakes.Finished(node, command, bad, timeout=10)
            assert done.code == code and str(bad) in done.text and done.peak < MEMORY, (command, bad, done.code, done.peak, done.text)
        done = fakes.Finished(node, "sign", bad, node.tree, timeout=10)
        assert done.code == 66 and done.peak < MEMORY, (bad, done.code, done.text)
    with open("/dev/zero") as endless:
        done = fakes.Finished(node, "check", "-", stdin=endless, timeout=10)
    assert done.code == 65 and "standard input" in done.text and done.peak < MEMORY, (done.code, done.peak, done.text)
    # The configuration itself, and what it names.
    assert node.stop() == 0
    good = node.config.read_text()
    for bad in (sparse, fifo, zero):
        before, node.config = node.config, bad
        done = fakes.Finished(node, "plan", node.tree, timeout=10)
        node.config = before
        assert done.code == 78 and done.peak < MEMORY, (bad, done.code, done.text)
        node.config.write_text(good.replace("[tree]", f'[tree]\ntrusted_keys = ["{bad}"]'))
        done = fakes.Finished(node, "check", node.tree, timeout=10)
        assert done.peak < MEMORY and "panicked" not in done.text, (bad, done.peak, done.text)
        done = fakes.Finished(node, "run", timeout=10)
        assert done.code == 78 and str(bad) in done.text and done.peak < MEMORY, (bad, done.code, done.text)
    node.config.write_text(good)
    node.start()


def commands_read_pipes(scene):
    """What a shell's <(...) or /dev/stdin gives is read like standard input."""
    scene.start(scene.shares(a=100, b=50))
    node = scene.node
    shell = lambda words: subprocess.run(["bash", "-c", words, kit.CGROVE, node.tree, node.config, str(node.port)], capture_output=True, text=True, timeout=30 * kit.PATIENCE)
    for words in (
        '"$0" check <(cat "$1")',
        'cat "$1" | "$0" check /dev/stdin',
        '"$0" --config <(sleep 0.2; cat "$2") check',
        '"$0" status --url ws://127.0.0.1:$3 --token-file <(echo token)',
    ):
        done = shell(words)
        assert done.returncode == 0, (words, done.stderr)
    done = shell('ulimit -v 1000000; "$0" check <(cat /dev/zero)')
    assert done.returncode == 65 and "at most" in done.stderr, (done.returncode, done.stderr)


def bad_file(path, what):
    os.mkfifo(path) if what == "fifo" else path.symlink_to("/dev/zero")
    return {"fifo": "FIFO", "zero": "a device"}[what]


def bounded(scene):
    """Whatever is read without end then ends the daemon, and not the machine."""
    subprocess.run(["prlimit", f"--pid={scene.node.process.pid}", f"--as={1 << 31}"], check=True)


def password_file(scene, what):
    """The password's file is neither waited for nor read whole."""
    server = scene.redis("--requirepass", "secret")
    secret = scene.directory / "secret"
    says = bad_file(secret, what)
    scene.start(scene.shares(a=100, b=50), redis={"url": server.url, "password_file": str(secret)})
    bounded(scene)
    scene.holds()
    error = eventually(lambda: watched(scene).status()["store"].get("error"), timeout=10)
    assert str(secret) in error and says in error, error
    drift_is_repaired(scene)
    secret.unlink()
    secret.write_text("secret\n")
    eventually(lambda: watched(scene).status()["store"]["connected"], timeout=20)
    assert fakes.peak(scene.node.process.pid) < MEMORY
    quiet(scene)


def trusted_keys(scene, what):
    """So is a key's, while the daemon runs and when it starts."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()
    bounded(scene)
    key = scene.directory / "key.pem"
    says = bad_file(key, what)
    scene.node.configure(tree={"trusted_keys": [str(key)]})
    scene.node.process.send_signal(signal.SIGHUP)
    line = eventually(lambda: [l for l in watched(scene).log.read_text().splitlines() if "the configuration stays as it was" in l])[0]
    assert str(key) in line and says in line, line
    drift_is_repaired(scene)
    assert fakes.peak(scene.node.process.pid) < MEMORY
    assert scene.node.stop() == 0
    done = fakes.Finished(scene.node, "run", timeout=10)
    assert done.code == 78 and str(key) in done.text and done.peak < MEMORY, (done.code, done.peak, done.text)
    quiet(scene)
    scene.node.configure()
    scene.node.start()


# -- Redis

ACCOUNT = "cgroup_arch/account"


def stores(scene):
    eventually(lambda: watched(scene).status()["store"]["written_total"] >= 2, timeout=20)


def giant_values(scene, size, kind="string", may_strlen=True):
    """Somebody writes large values where our slots are."""
    server = scene.redis()
    may = ["+get", "+set", "+setex", "+exists", "+expire", "+del", "+xadd"] + ["+strlen"] * may_strlen
    server.client.execute_command("ACL", "SETUSER", "node", "on", ">secret", "~*", *may)
    scene.start(scene.shares(a=100, b=50), redis={"url": f"redis://node:secret@127.0.0.1:{server.port}"})
    stores(scene)
    client, now = server.client, int(time.time())
    for i in range(30, 46):
        key = f"{ACCOUNT}/{now - i}"
        if kind == "string":
            client.setrange(key, size - 1, b" ")
        else:
            client.execute_command("EVAL", f"for i=1,{size} do redis.call('rpush', KEYS[1], ARGV[1]) end", 1, key, "x" * 1000)
    client.set(f"{ACCOUNT}/{now - 60}", b'{"cpu":{"value":{"usage":7}}}', ex=300)
    reply = scene.node.ask("show_account", nr_slot=100)
    # Without the right to ask for lengths, the connection ends at a giant, and what is only there is left out.
    if may_strlen:
        assert str(now - 60) in reply and reply[str(now - 60)]["cpu"]["value"]["usage"] == 7, sorted(reply)
    assert set(scene.slots()) >= {int(slot) for slot in reply if int(slot) > now - 5}
    assert fakes.peak(watched(scene).process.pid) < MEMORY
    stored = scene.node.status()["store"]
    assert stored["connected"], stored


def giant_owner(scene):
    """The name of who has the prefix is 100 MiB long."""
    server = scene.redis()
    server.client.setrange("cgroup_arch/owner", 100 << 20, b"x")
    scene.start(scene.shares(a=100, b=50), redis=server)
    eventually(lambda: watched(scene).status()["store"].get("owner_conflict"), timeout=15)
    time.sleep(2)
    status = scene.node.status()
    assert len(status["store"]["owner_conflict"]) < 1000 and fakes.peak(scene.node.process.pid) < MEMORY
    server.client.delete("cgroup_arch/owner")
    stores(scene)


def hostile_redis(scene, mood, connections=12, memory=MEMORY, sentinel=False, cluster=False):
    """A Redis turns bad for a while and good again: no slot is lost, memory and connections are bounded."""
    server = fakes.Redis()
    scene.callback(server.stop)
    url = f"redis+sentinel://127.0.0.1:{server.port}/cg" if sentinel else server.url
    scene.start(scene.shares(a=100, b=50), redis={"url": url, "cluster": cluster})
    stores(scene)
    server.turn(mood)
    eventually(lambda: not watched(scene).status()["store"]["connected"], timeout=15)
    before = fakes.cpu(scene.node.process.pid)
    came = server.came_within(5)
    assert came <= connections, f"{came} connections in 5 s"
    assert fakes.cpu(scene.node.process.pid) - before < 4 * kit.PATIENCE
    # Who asks for what only Redis may have is answered all the same.
    assert isinstance(scene.node.ask("show_account", nr_slot=200), dict)
    watched(scene)
    drift_is_repaired(scene)
    peak = fakes.peak(scene.node.process.pid)
    assert peak < memory, peak
    server.turn("good")
    there = lambda: {int(k.rsplit(b"/", 1)[1]) for k in list(server.data) if b"/account/" in k}
    eventually(lambda: not set(scene.slots()[:-1]) - there(), timeout=15)
    quiet(scene)


def events_and_a_lost_connection(scene):
    """The connection is lost while events are told: that is no refusal, and they are told again at once."""
    server = fakes.Redis()
    scene.callback(server.stop)
    scene.start(scene.shares(a=100, b=50), redis={"url": server.url})
    stores(scene)
    server.mood = "closes-on-events"
    server.drop()
    scene.wanted = {"a": 200, "b": 50}
    scene.node.write_tree(kit.cpu_tree(scene.wanted))
    eventually(lambda: server.mood == "good", timeout=20)
    cut = time.monotonic()
    eventually(lambda: any(at > cut and name == b"XADD" for at, name in list(server.asked)), timeout=10)
    assert "events are not stored" not in quiet(scene)
    # A refusal is one, and does not keep slots from being stored.
    server.refuse = b"XADD"
    scene.wanted = {"a": 300, "b": 50}
    scene.node.write_tree(kit.cpu_tree(scene.wanted))
    eventually(lambda: "events are not stored" in scene.node.log.read_text(), timeout=10)
    written = scene.node.status()["store"]["written_total"]
    eventually(lambda: scene.node.status()["store"]["written_total"] >= written + 2)


def a_cluster_far_away(scene, delay):
    """A cluster whose answers take long has lost everything; every slot is written again."""
    server = fakes.Redis()
    scene.callback(server.stop)
    scene.start(scene.shares(a=100, b=50), redis={"url": server.url, "cluster": True})
    stores(scene)
    eventually(lambda: len(scene.slots()) >= 12, timeout=20)
    server.turn("closes")
    server.data.clear()
    eventually(lambda: not watched(scene).status()["store"]["connected"], timeout=15)
    server.delay = delay
    server.turn("good")
    there = lambda: {int(k.rsplit(b"/", 1)[1]) for k in list(server.data) if b"/account/" in k}
    # One question each for what it may have lost, and one for each that it has: more than one turn is given.
    eventually(lambda: not set(scene.slots()[:10]) - there(), timeout=60)
    eventually(lambda: watched(scene).status()["store"]["connected"])
