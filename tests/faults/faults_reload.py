"""Reloads that fail change nothing, and whoever is told to stop stops."""

import os
import pathlib
import signal
import subprocess
import time

import kit
from kit import cpu_tree, eventually

UNCHANGED = "the configuration stays as it was"


def running(scene, **settings):
    scene.start(scene.shares(a=100, b=50), **settings)
    scene.holds()


def listening(scene):
    """The sockets on which the daemon listens."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{scene.node.process.pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(fd))
        except OSError:
            pass
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:] + pathlib.Path("/proc/net/tcp6").read_text().splitlines()[1:]
    tcp = {l.split()[1] for l in lines if l.split()[3] == "0A" and f"socket:[{l.split()[9]}]" in inodes}
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]
    unix = {l.split()[7] for l in lines if len(l.split()) > 7 and f"socket:[{l.split()[6]}]" in inodes}
    return tcp | unix


def reload(scene):
    scene.node.process.send_signal(signal.SIGHUP)


def changes_nothing(scene, words):
    """The configuration that is there now is refused; the daemon goes on exactly as before."""
    before, slots = listening(scene), scene.slots()
    said = scene.node.log.read_text().count(UNCHANGED)
    sock = scene.node.connect()
    reload(scene)
    eventually(lambda: scene.node.log.read_text().count(UNCHANGED) > said)
    line = [l for l in scene.node.log.read_text().splitlines() if UNCHANGED in l][-1]
    assert words in line, line
    assert scene.node.alive() and scene.node.http("/readyz")[0] == 200 and listening(scene) == before
    # Clients stay, measurements as well, and drift is repaired.
    sock.send('{"cmd": "list_groups"}')
    assert "groups" in sock.recv()
    assert set(slots[-2:]) <= set(scene.slots())
    scene.node.set_shares("/b", 9)
    scene.holds(5)


def second_parent(scene, name):
    parent = f"{scene.parent}-{name}"
    scene.callback(kit.remove_cgroups, parent)
    return parent


def held_parent(scene):
    """A reload into a parent that another daemon holds."""
    running(scene)
    parent = second_parent(scene, "other")
    with kit.node_of(scene.directory / "second", parent) as second:
        second.write_tree(cpu_tree({"c": 70}))
        second.start()
        scene.node.configure(cgroup={"parent": parent})
        changes_nothing(scene, f"pid {second.process.pid}")
        assert second.alive() and not second.group("cpu", "/a").exists() and second.shares("/c") == 70
        # Once it is free, the same reload is followed.
        second.stop()
        reload(scene)
        eventually(lambda: (kit.group("cpu", parent, "/a")).is_dir())
        # The one before belongs to nobody now.
        third = kit.Node(scene.directory / "third", scene.parent)
        scene.callback(third.clean)
        third.write_tree(cpu_tree({"a": 100, "b": 50}))
        third.start()
        scene.node.stop()
        third.stop()
    scene.node.configure()
    scene.node.start()
    scene.holds()


def nested_parent(scene, inside):
    """A parent inside or above the present one."""
    running(scene)
    scene.node.configure(cgroup={"parent": f"{scene.parent}/a" if inside else "/"})
    changes_nothing(scene, "restart")


def bad_address(scene, bad, words):
    """Two more addresses, one of which cannot be had: the other one is not left open."""
    running(scene)
    good = kit.free_port()
    listen = [f"127.0.0.1:{scene.node.port}", f"127.0.0.1:{good}", bad]
    scene.node.configure(server={"listen": listen, "insecure": True})
    changes_nothing(scene, words)
    scene.node.configure(server={"listen": listen[:2]})
    reload(scene)
    eventually(lambda: f":{good:04X}" in str(listening(scene)))


def bad_secret(scene, section, file, text, words):
    """A file beside the configuration that cannot be used."""
    running(scene)
    path = scene.directory / file
    if text:
        path.write_text(text)
    lines = section.replace("FILE", str(path))
    good = scene.node.config.read_text()
    scene.node.config.write_text(good.replace("[server]", lines + "\n[server]") if lines.startswith("[[") else good.replace("[server]", f"[server]\n{lines}"))
    changes_nothing(scene, words)


# Stops one thread until it is killed, and waits for it as a tracer has to.
HOLD = """
import ctypes, os, sys
thread, WALL = int(sys.argv[1]), 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
SEIZE, INTERRUPT = 0x4206, 0x4207
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, thread, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, WALL)
print("there", flush=True)
os.waitpid(thread, WALL)
"""


def stuck_at_stop(scene, sig):
    """The thread that writes hangs when the daemon is told to stop: it stops before systemd kills it."""
    running(scene)
    tasks = pathlib.Path(f"/proc/{scene.node.process.pid}/task")
    worker = next(t.name for t in tasks.iterdir() if (t / "comm").read_text().strip() == "hands")
    holder = scene.process("/usr/bin/python3", "-c", HOLD, worker, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "there\n"
    rounds = scene.node.status()["plan"]["rounds"]
    scene.node.write_tree(scene.shares(a=300, b=50))
    # The new document is in force, and its round does not end.
    eventually(lambda: scene.node.ask("get_conf")["value"]["cpu"]["sub_cgroup"]["a"]["conf"]["share"] == 300)
    assert scene.node.status()["plan"]["rounds"] == rounds
    start = time.monotonic()
    scene.node.process.send_signal(sig)
    assert scene.node.process.wait(60 * kit.PATIENCE) == 0
    took = time.monotonic() - start
    assert took < 20 * kit.PATIENCE, took
    scene.node.start()
    scene.holds()
