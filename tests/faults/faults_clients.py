"""Clients that are slow, huge, forged or many: they are refused or bounded, and the others are not slowed."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import time

import pytest
import websocket

import kit
from faults_answers import *  # noqa: F403 - rows name its functions
from faults_crowd import *  # noqa: F403 - rows name its functions
from kit import eventually

# An ordinary client's question is answered within this, whatever others do.
SOON = 1.5


def running(scene, **server):
    scene.start(scene.shares(a=100, b=50), **({"server": server} if server else {}))
    eventually(lambda: len(scene.slots()) >= 2)


def others_are_served(scene, times=5):
    for _ in range(times):
        start = time.monotonic()
        assert scene.node.ask("show_account", nr_slot=2)
        took = time.monotonic() - start
        assert took < SOON * kit.PATIENCE, took
        time.sleep(0.05)


def handshaken(scene, **options):
    sock = scene.node.connect(**options)
    return sock


def raw(scene):
    sock = socket.create_connection(("127.0.0.1", scene.node.port), timeout=10)
    scene.callback(sock.close)
    return sock


def slow_readers(scene):
    """Fifty clients ask for much and read nothing; memory stays bounded, they are dropped in the end."""
    running(scene)
    eventually(lambda: len(scene.slots()) >= 4)
    before = memory(scene)
    readers = [handshaken(scene) for _ in range(50)]
    with contextlib.suppress(OSError, websocket.WebSocketException):
        for _ in range(300):
            for reader in readers:
                reader.sock.settimeout(0.05)
                reader.send(json.dumps({"cmd": "show_account", "args": {"nr_slot": 300}}))
    others_are_served(scene)
    assert memory(scene) - before < 100 << 20


def memory(scene):
    status = (kit.pathlib.Path(f"/proc/{scene.node.process.pid}/status")).read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def oversized(scene):
    running(scene)
    for size in ((64 << 10) + 1, 10 << 20):
        sock = handshaken(scene)
        with contextlib.suppress(OSError, websocket.WebSocketException):
            sock.send("x" * size)
        with pytest.raises((websocket.WebSocketException, OSError)):
            while True:
                if not sock.recv():
                    raise websocket.WebSocketConnectionClosedException("closed")
    # A frame that only claims to be huge.
    sock = handshaken(scene).sock
    sock.sendall(b"\x81\xff" + struct.pack(">Q", 1 << 62) + b"mask")
    sock.settimeout(10)
    with contextlib.suppress(OSError):
        while sock.recv(4096):
            pass
    others_are_served(scene)


def fragmented(scene):
    """A request in a thousand frames is one request; an endless one is cut off."""
    running(scene)
    sock = handshaken(scene)
    text = json.dumps({"cmd": "list_groups", "args": {}}).encode()
    frame = lambda opcode, fin, data: bytes([(0x80 if fin else 0) | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data
    for i, byte in enumerate(text):
        sock.sock.sendall(frame(1 if i == 0 else 0, False, bytes([byte])))
    sock.sock.sendall(frame(0, True, b""))
    assert json.loads(sock.recv())["groups"]
    with contextlib.suppress(OSError):
        sock.sock.sendall(frame(1, False, b"x"))
        for _ in range(2000):
            sock.sock.sendall(frame(0, False, b"x" * 100))
    sock.sock.settimeout(10)
    with contextlib.suppress(OSError):
        while sock.sock.recv(4096):
            pass
    others_are_served(scene)


def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))


def half_open(scene, number):
    """So many that connect, send half a request, and wait."""
    many_descriptors()
    running(scene)
    socks = []
    try:
        for i in range(number):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", scene.node.port))
            socks.append(sock)
            if i % 100 == 99:
                time.sleep(0.02)
                for s in socks[-100:]:
                    with contextlib.suppress(OSError):
                        s.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            if i % 1000 == 999:
                others_are_served(scene, 2)
        others_are_served(scene)
    finally:
        for sock in socks:
            sock.close()


def at_once(scene, number):
    """So many clients, each with a WebSocket and a question a second."""
    many_descriptors()
    running(scene, max_connections=number + 100)

    # They all stay, but come in through a door: who has not asked anything yet makes room for others.
    door = asyncio.Semaphore(200)

    async def arrives():
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.node.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def client(results):
        async with door:
            reader, writer = await arrives()
        question = json.dumps({"cmd": "list_groups"}).encode()
        for _ in range(3):
            writer.write(bytes([0x81, 0x80 | len(question)]) + b"\0\0\0\0" + question)
            head = await reader.readexactly(2)
            length = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2), "big")
            assert b"groups" in await reader.readexactly(length)
            results.append(1)
            await asyncio.sleep(1)
        writer.close()

    async def everybody():
        results = []
        await asyncio.wait_for(asyncio.gather(*(client(results) for _ in range(number))), 120 * kit.PATIENCE)
        return len(results)

    assert asyncio.run(everybody()) == 3 * number
    others_are_served(scene)


def forged(scene, header, value):
    """A page of another site, or a name that DNS was made to point here."""
    running(scene)
    headers = {"Host": f"127.0.0.1:{scene.node.port}", header: value}
    request = "GET / HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    for more in ("", upgrade):
        sock = raw(scene)
        sock.sendall((request + more + "\r\n").encode())
        assert b" 403 " in sock.recv(4096).split(b"\r\n")[0]
    assert scene.node.status()["server"]["refused_total"] >= 2
    others_are_served(scene)


def odd_requests(scene, args):
    """An answer or an error with words, on a connection that stays."""
    running(scene)
    sock = handshaken(scene)
    for value in args:
        sock.send(json.dumps(value) if not isinstance(value, str) else value)
        start = time.monotonic()
        reply = json.loads(sock.recv())
        assert time.monotonic() - start < SOON * kit.PATIENCE
        assert isinstance(reply, dict)
        wild = json.dumps(value).count("1000000000")
        assert "error" in reply or wild, (value, reply)
    sock.send(json.dumps({"cmd": "show_account", "args": {"nr_slot": 2}}))
    assert json.loads(sock.recv())
    others_are_served(scene)
