"""So many connections of whoever runs this. `crowd.py PORT|SOCKET NUMBER HOW [QUESTION]` says `there` and waits for the end
of its input; it runs as any user, with nothing but Python."""

import json
import resource
import selectors
import socket
import sys

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
ASKING = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + UPGRADE + b"\r\n"
# What a reader that takes nothing asks for, ahead.
TIMES = 60


def frame(data, opcode=1):
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + data


def connected(where, receive=None):
    inet = where.isdigit()
    sock = socket.socket(socket.AF_INET if inet else socket.AF_UNIX)
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", int(where)) if inet else where)
    return sock


def handshaken(where, receive=None):
    sock = connected(where, receive)
    sock.sendall(ASKING)
    head = b""
    while b"\r\n\r\n" not in head:
        more = sock.recv(1)
        if not more:
            return sock
        head += more
    return sock


def main(where, number, how, question="{}"):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    socks = []
    for _ in range(int(number)):
        if how == "silent":
            socks.append(connected(where))
        elif how == "kept-alive":
            sock = connected(where)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            sock.recv(1000)
            socks.append(sock)
        else:
            socks.append(handshaken(where, 4096 if how == "slow" else None))
    if how in ("slow", "wide"):
        for sock in socks:
            sock.setblocking(False)
            try:
                sock.send(frame(question.encode()) * TIMES)
            except OSError:
                pass
    print("there", flush=True)
    if how == "wide":
        take_all(socks)
    sys.stdin.read()


def take_all(socks):
    """Reads and throws away, until the input ends."""
    everything = selectors.DefaultSelector()
    everything.register(sys.stdin, selectors.EVENT_READ)
    for sock in socks:
        everything.register(sock, selectors.EVENT_READ)
    while True:
        for key, _ in everything.select():
            if key.fileobj is sys.stdin:
                return
            try:
                there = key.fileobj.recv(1 << 20)
            except OSError:
                there = b""
            if not there:
                everything.unregister(key.fileobj)


if __name__ == "__main__":
    main(*sys.argv[1:])
