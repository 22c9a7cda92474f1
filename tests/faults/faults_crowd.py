"""Crowds of one user, impostors, and a port that somebody else holds: nobody else is kept out, nothing else stops."""

import contextlib
import os
import pathlib
import socket
import subprocess
import time

import pytest
import websocket

import crowd
import kit
from kit import eventually

# An ordinary question is answered within this, whatever a crowd does.
SOON = 2.0
# Beside work for a crowd, on two cores and without optimisation; before there were shares it was ten seconds and more.
SOON_ENOUGH = 6.0
NOBODY = 65534
SCRIPT = pathlib.Path(crowd.__file__)


def as_user(uid, *command, **options):
    return subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *map(str, command)], start_new_session=True, **options)


def python(uid, script, *arguments, **options):
    return as_user(uid, "/usr/bin/python3", "-c", script, *arguments, **options)


def gather(scene, number, how, uid=NOBODY, where=None, question="{}"):
    """A crowd of a user, which is there now and stays."""
    arguments = [where or scene.node.port, number, how, question]
    process = python(uid, SCRIPT.read_text(), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    scene.callback(kit.kill_group, process)
    assert process.stdout.readline() == "there\n"
    return process


def running(scene, document=None, **server):
    scene.start(document or scene.shares(a=100, b=50), **({"server": server} if server else {}))
    eventually(lambda: len(scene.slots()) >= 2)


def soon(ask, within=SOON):
    for _ in range(3):
        start = time.monotonic()
        result = ask()
        took = time.monotonic() - start
        assert took < within * kit.PATIENCE, took
    return result


def status(scene):
    return scene.node.json("status", check=0)


def monitored(scene, within=SOON):
    """What monitoring and root ask is answered soon."""
    for path in ("/healthz", "/readyz", "/metrics"):
        code, text = soon(lambda: scene.node.http(path), within)
        assert code == 200, (path, code, text)
    assert soon(lambda: status(scene), within)["ready"]


def many_lines(scene, what):
    return [line for line in scene.node.log.read_text().splitlines() if what in line]


# -- crowds


def idle_crowd(scene, how="idle", number=1024):
    """All places are one user's."""
    running(scene)
    gather(scene, number, how)
    monitored(scene)
    assert soon(lambda: scene.node.ask("show_account", nr_slot=2))
    told = many_lines(scene, "client dropped")
    assert 1 <= len(told) <= 4 and f"uid {NOBODY}" in told[0], told
    assert status(scene)["server"]["dropped_clients"]["room"] >= 1


def crowd_of_the_same(scene):
    """Who asks is of the crowd himself: health is answered all the same, and root by the socket."""
    running(scene, max_connections=64)
    # Who has asked does not make room as one who says nothing would.
    socks = [scene.node.connect() for _ in range(64)]
    monitored(scene)
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        scene.node.connect()
    assert refused.value.status_code == 503
    assert all(sock.connected for sock in socks) and status(scene)["server"]["dropped_clients"]["full"] >= 1
    # The crowd goes on asking for health without taking a place from others.
    for _ in range(200):
        socket.create_connection(("127.0.0.1", scene.node.port)).close()
    monitored(scene)


def shares_of_users(scene):
    """Two crowds share what there is; a third user takes from both."""
    running(scene, max_connections=64)
    first = gather(scene, 64, "idle")
    gather(scene, 20, "idle", uid=12345)
    ask = "import websocket, sys, json; s = websocket.create_connection(sys.argv[1], timeout=10); s.send('{\"cmd\": \"list_groups\"}'); print(s.recv())"
    for uid in (12346, 12347):
        asked = python(uid, ask, f"ws://127.0.0.1:{scene.node.port}/", stdout=subprocess.PIPE, text=True)
        assert "groups" in asked.communicate(timeout=20 * kit.PATIENCE)[0]
    dropped = status(scene)["server"]["dropped_clients"]["room"]
    assert 20 <= dropped <= 24, dropped
    assert first.poll() is None


def crowd_at_the_socket(scene):
    """Root's own connections fill root's own socket; the next one gets in."""
    running(scene)
    gather(scene, 400, "idle", uid=0, where=str(scene.node.state / "cgrove.sock"))
    assert soon(lambda: status(scene))["ready"]
    monitored(scene)


def out_of_descriptors(scene):
    """A crowd takes the last descriptors: it loses some for others."""
    scene.node.write_tree(scene.shares(a=100))
    scene.node.configure()
    limited = ["prlimit", "--nofile=96:96", str(kit.CGROVE), "run", "--config", str(scene.node.config)]
    with open(scene.node.log, "ab") as log:
        scene.node.process = subprocess.Popen(limited, stdout=log, stderr=log, start_new_session=True)
    scene.holds(30)
    crowds = [socket.create_connection(("127.0.0.1", scene.node.port)) for _ in range(150)]
    try:
        eventually(lambda: scene.node.http("/healthz")[0] == 200, timeout=5)
    finally:
        for sock in crowds:
            sock.close()


WIDE = '{"cmd": "show_account", "args": {"nr_slot": 300, "rates": true}}'
LARGE = '{"cmd": "show_account", "args": {"nr_slot": 300}}'


def large(scene, number=250):
    """A tree whose slots are large."""
    groups = {f"group-{i:03}-{'x' * 40}": {} for i in range(number)}
    running(scene, {"groups": groups, "controllers": ["cpu", "memory", "pids"]})
    eventually(lambda: len(scene.slots()) >= 5)


def slow_crowd(scene, number):
    """Readers that take nothing hold all bytes under way that one user may have."""
    large(scene)
    gather(scene, number, "slow", question=LARGE)
    time.sleep(1)
    soon(lambda: scene.node.ask("show_account", nr_slot=4), SOON_ENOUGH)
    monitored(scene, SOON_ENOUGH)
    eventually(lambda: status(scene)["server"]["dropped_clients"].get("slow"), timeout=30)


def wide_crowd(scene, number, question=None):
    """Many wide questions of one user wait for each other; others' do not wait for them."""
    large(scene, 900)
    gather(scene, number, "wide", question=question or WIDE)
    group = f"/group-001-{'x' * 40}"
    assert soon(lambda: scene.node.ask("show_account", nr_slot=2, group=group, rates=True), SOON_ENOUGH)
    assert soon(lambda: scene.node.ask("get_group", group=group), SOON_ENOUGH)["group"] == group
    monitored(scene, SOON_ENOUGH)


def pinged(scene):
    """Who answers pings stays, and so does who reads; who never answers goes after long."""
    running(scene, idle_timeout="2s")
    answers, never, reads = scene.node.connect(), scene.node.connect(), scene.node.connect()
    reads.send('{"cmd": "subscribe", "args": {"to": "slots"}}')
    end = time.monotonic() + 5
    while time.monotonic() < end:
        # Takes what came, answers pings, asks nothing.
        answers.settimeout(0.2)
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            answers.recv()
        reads.sock.recv(1 << 16)
    answers.settimeout(10)
    answers.send('{"cmd": "list_groups"}')
    assert "groups" in answers.recv()
    never.sock.settimeout(5)
    with contextlib.suppress(ConnectionError):
        while never.sock.recv(4096):
            pass
    reads.sock.settimeout(5)
    assert reads.sock.recv(1 << 16)
    assert status(scene)["server"]["dropped_clients"] == {"silent": 1} and len(many_lines(scene, "answers no pings")) == 1


def kept_alive(scene):
    """A kept-alive connection that asks no more is closed."""
    running(scene)
    sock = socket.create_connection(("127.0.0.1", scene.node.port), timeout=25 * kit.PATIENCE)
    scene.callback(sock.close)
    for _ in range(2):
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200" in sock.recv(1000)
    assert sock.recv(1000) == b""


# -- browsers and balancers


def plain(scene, request):
    with socket.create_connection(("127.0.0.1", scene.node.port), timeout=10) as sock:
        sock.sendall(request.replace("\n", "\r\n").encode())
        return int(sock.recv(4096).split()[1])


def without_host(scene):
    running(scene)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert plain(scene, f"GET {path} HTTP/1.0\n\n") == 200, path
        assert plain(scene, f"GET {path} HTTP/1.1\nHost:\n\n") == 200, path
        assert plain(scene, f"GET {path} HTTP/1.1\nHost: evil.example\n\n") == 403, path
        assert plain(scene, f"GET {path} HTTP/1.0\nOrigin: http://evil.example\n\n") == 403, path
    for path in ("/", "/api/v1/get_conf"):
        assert plain(scene, f"GET {path} HTTP/1.0\n\n") == 403, path


def other_site(scene, site):
    """A page elsewhere asks by a link, a script or a picture, which brings no Origin."""
    running(scene)
    ask = lambda path, *more: plain(scene, f"GET {path} HTTP/1.1\nHost: 127.0.0.1:{scene.node.port}\nSec-Fetch-Site: {site}\n" + "".join(f"{m}\n" for m in more) + "\n")
    for path in ("/", "/healthz", "/metrics", "/api/v1/get_conf"):
        assert ask(path, "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script") == 403, path
    followed = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    assert ask("/", *followed) == 200 and ask("/api/v1/get_conf", *followed) == 403
    site = "same-origin"
    assert ask("/api/v1/get_conf", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty") == 200


# -- ports


def with_systemd(scene):
    """What would be said to systemd."""
    path = scene.directory / "notify"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    scene.callback(sock.close)
    sock.bind(str(path))
    sock.settimeout(20 * kit.PATIENCE)
    os.environ["NOTIFY_SOCKET"] = str(path)
    scene.callback(os.environ.pop, "NOTIFY_SOCKET", None)
    return sock


def launched(scene):
    """Without a look at the port, which may be somebody else's."""
    with open(scene.node.log, "ab") as log:
        command = ["setpriv", "--pdeathsig", "KILL", kit.CGROVE, "run", "--config", scene.node.config]
        scene.node.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def busy_port(scene):
    """Somebody else holds the port at the start: everything else goes on, and it is taken when it is free."""
    scene.node.write_tree(scene.shares(a=100, b=50))
    scene.node.configure()
    said = with_systemd(scene)
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('there', flush=True); sys.stdin.read()"
    holder = python(NOBODY, listen, scene.node.port, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    scene.callback(kit.kill_group, holder)
    assert holder.stdout.readline() == "there\n"
    launched(scene)
    scene.holds()
    while b"READY=1" not in said.recv(4096):
        pass
    seen = eventually(lambda: (lambda s: s["ready"] and s)(status(scene)))
    assert seen["server"]["listen"] == [] and str(scene.node.port) in seen["server"]["errors"][0]
    assert any(str(scene.node.port) in line for line in many_lines(scene, "server.listen"))
    scene.node.set_shares("/b", 9)
    scene.holds()
    kit.kill_group(holder)
    eventually(lambda: scene.node.http("/readyz")[0] == 200, timeout=15)
    seen = status(scene)
    assert seen["server"]["errors"] == [] and len(seen["server"]["listen"]) == 1


def no_address(scene):
    """Not one address can be opened."""
    scene.node.write_tree(scene.shares(a=100, b=50))
    scene.node.configure(server={"listen": ["192.0.2.1:43409", "/proc/nowhere/cgrove.sock"], "insecure": True})
    launched(scene)
    scene.holds()
    seen = eventually(lambda: (lambda s: len(s["server"]["errors"]) == 2 and s)(status(scene)))
    assert seen["server"]["listen"] == []
    scene.node.set_shares("/b", 9)
    scene.holds()
    assert scene.node.stop() == 0
    scene.node.configure()
    scene.node.start()


# -- impostors

IMPOSTOR = """
import base64, hashlib, os, re, socket, sys
where = sys.argv[1]
s = socket.create_server(("127.0.0.1", int(where))) if where.isdigit() else socket.socket(socket.AF_UNIX)
if not where.isdigit():
    s.bind(where)
    os.chmod(where, 0o777)
    s.listen()
print("there", flush=True)
while True:
    c, _ = s.accept()
    try:
        asked = c.recv(4096).decode()
        key = re.search("(?i)sec-websocket-key: (.*)\\r", asked)[1]
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        c.sendall(f"HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Accept: {accept}\\r\\n\\r\\n".encode())
        text = b'{"error": "forged words"}'
        c.sendall(bytes([0x81, len(text)]) + text)
        c.recv(4096)
    except Exception as e:
        print(e, file=sys.stderr)
"""


def impostor(scene, socket_path):
    """The daemon is away, and another user listens where it would: nothing that he says is shown."""
    scene.node.write_tree(scene.shares(a=100, b=50))
    directory = scene.directory / "open"
    directory.mkdir()
    for up in [directory, *directory.parents][:-1]:
        up.chmod(up.stat().st_mode | 0o777 if up == directory else up.stat().st_mode | 0o011)
    where = directory / "s" if socket_path else scene.node.port
    scene.node.configure(server={"listen": str(where) if socket_path else f"127.0.0.1:{where}"})
    fake = python(NOBODY, IMPOSTOR, where, stdout=subprocess.PIPE, text=True)
    scene.callback(kit.kill_group, fake)
    assert fake.stdout.readline() == "there\n"
    for command in (["status"], ["usage"], ["events"]):
        result = scene.node.run(*command, check=69)
        assert f"uid {NOBODY}" in result.stderr and "forged" not in result.stdout + result.stderr, result.stderr
    launched(scene)
    # Beside a daemon, root asks root's socket.
    assert eventually(lambda: status(scene)["ready"])
    kit.kill_group(fake)
    scene.holds()
