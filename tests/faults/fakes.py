"""Servers that break their protocols on purpose: a ZooKeeper and a Redis of a few lines, with a mood that a test changes."""

import contextlib
import json
import os
import queue
import socket
import struct
import threading
import time

import kit


class Fake:
    """Accepts on a port of loopback; each connection has a thread, and what it does depends on the mood of then."""

    def __init__(self, mood="good"):
        self.mood = mood
        self.accepted = []
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(time.monotonic())
            self.open.add(peer)
            threading.Thread(target=self.one, args=(peer,), daemon=True).start()

    def one(self, peer):
        try:
            self.serve(peer)
        except (OSError, EOFError, struct.error, ValueError):
            pass
        finally:
            self.open.discard(peer)
            peer.close()

    def turn(self, mood):
        """Another mood, for those who come from now on; who is there is sent away."""
        self.mood = mood
        self.drop()

    def drop(self):
        for peer in list(self.open):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def stop(self):
        # Whoever waits in accept() keeps the port.
        for end in (lambda: self.listener.shutdown(socket.SHUT_RDWR), self.listener.close, self.drop):
            with contextlib.suppress(OSError):
                end()

    def came_within(self, seconds):
        """How many connections come in that time."""
        before = len(self.accepted)
        time.sleep(seconds)
        return len(self.accepted) - before


def exactly(peer, length):
    data = b""
    while len(data) < length:
        more = peer.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def endless(peer, head=b"", chunk=bytes(1 << 20), limit=3 << 30):
    """Sends without end, as fast as it is taken."""
    peer.sendall(head)
    for _ in range(limit // len(chunk)):
        peer.sendall(chunk)


class ZooKeeper(Fake):
    """Speaks jute as far as one znode needs it."""

    GET, EXISTS, ACL, SYNC, PING, AUTH, CLOSE = 4, 3, 6, 9, 11, 100, -11
    PATH = "/faults/arch_conf"

    def __init__(self, document, mood="good"):
        self.put(document)
        self.reads = 0
        self.sessions = []
        super().__init__(mood)

    def put(self, document):
        self.document = json.dumps(document).encode()
        self.version = getattr(self, "version", 0) + 1

    @property
    def hosts(self):
        return f"127.0.0.1:{self.port}"

    prefix = "/faults"

    @staticmethod
    def frame(body):
        return struct.pack(">i", len(body)) + body

    def reply(self, xid, error=0, body=b""):
        return self.frame(struct.pack(">iqi", xid, 100 + self.version, error) + body)

    @staticmethod
    def buffer(data):
        return struct.pack(">i", len(data)) + data

    def event(self, path):
        return self.reply(-1, 0, struct.pack(">ii", 3, 3) + self.buffer(path.encode()))

    def stat(self):
        now = 100 + self.version
        return struct.pack(">qqqqiiiqiiq", 1, now, 0, 0, self.version, 0, 0, 0, len(self.document), 0, 1)

    def request(self, peer):
        body = exactly(peer, struct.unpack(">i", exactly(peer, 4))[0])
        xid, op = struct.unpack(">ii", body[:8])
        return xid, op

    def serve(self, peer):
        mood = self.mood
        if mood == "closes":
            return
        connect = exactly(peer, struct.unpack(">i", exactly(peer, 4))[0])
        before = {
            "garbage": lambda: peer.sendall(os.urandom(4096)),
            "negative": lambda: peer.sendall(struct.pack(">i", -5)),
            "empty-frames": lambda: endless(peer, chunk=bytes(1 << 16)),
            "huge-greeting": lambda: endless(peer, struct.pack(">i", 1 << 30)),
            "expired": lambda: peer.sendall(self.frame(struct.pack(">iiq", 0, 0, 0) + self.buffer(bytes(16)) + b"\0")),
        }
        if mood in before:
            before[mood]()
            return
        if mood == "half-a-greeting":
            peer.sendall(struct.pack(">i", 37) + b"\0\0")
            time.sleep(60)
            return
        timeout, session = struct.unpack(">iq", connect[12:24])
        self.sessions.append(session)
        if mood == "forgets" and session:
            peer.sendall(self.frame(struct.pack(">iiq", 0, 0, 0) + self.buffer(bytes(16)) + b"\0"))
            return
        if mood == "long-session":
            timeout = (1 << 31) - 1
        peer.sendall(self.frame(struct.pack(">iiq", 0, timeout, 0x1234) + self.buffer(bytes(range(16))) + b"\0"))
        while True:
            xid, op = self.request(peer)
            if op == self.PING:
                peer.sendall(self.reply(-2))
            elif op == self.CLOSE:
                peer.sendall(self.reply(xid))
                return
            elif op == self.AUTH:
                peer.sendall(self.reply(xid))
            elif op == self.SYNC:
                peer.sendall(self.reply(xid, 0, self.buffer(self.PATH.encode())))
            elif op == self.ACL:
                owner = struct.pack(">ii", (1 << 31) - 1 if mood == "many-acls" else 1, 31) + self.buffer(b"digest") + self.buffer(b"user:x")
                peer.sendall(self.reply(xid, 0, owner + self.stat()))
            elif op == self.GET:
                self.reads += 1
                if self.read(peer, xid, mood):
                    return
            else:
                peer.sendall(self.reply(xid, -6))

    def read(self, peer, xid, mood):
        """Answers to a read; true when the connection is over."""
        whole = self.buffer(self.document) + self.stat()
        endings = {
            "no-body": lambda: peer.sendall(self.reply(xid)),
            "no-stat": lambda: peer.sendall(self.reply(xid, 0, self.buffer(self.document))),
            "long-data": lambda: peer.sendall(self.reply(xid, 0, struct.pack(">i", 1 << 30) + whole)),
            "huge-frame": lambda: endless(peer, struct.pack(">iiqi", 1 << 30, xid, 1, 0)),
            "wrong-number": lambda: peer.sendall(self.reply(xid + 1000, 0, whole)),
            "session-over": lambda: peer.sendall(self.reply(xid, -112)),
            "odd-error": lambda: peer.sendall(self.reply(xid, -12345)),
            "half-a-reply": lambda: peer.sendall(self.reply(xid, 0, whole)[:-10]),
            "dribble": lambda: [(peer.sendall(b"\0"), time.sleep(0.05)) for _ in peer.sendall(struct.pack(">i", 1 << 20)) or range(2000)],
            "events": lambda: endless(peer, chunk=self.event("/of/others") * 1000),
            "pings": lambda: endless(peer, chunk=self.reply(-2) * 1000),
            "unasked": lambda: endless(peer, self.reply(xid, 0, whole), chunk=self.event("/of/others") * 1000),
        }
        if mood not in endings:
            peer.sendall(self.reply(xid, 0, whole))
            if mood == "changes-without-end":
                peer.sendall(self.event(self.PATH))
            return mood == "reads-once"
        endings[mood]()
        if mood in ("odd-error", "no-body", "no-stat", "half-a-reply"):
            # Whoever waits for more waits for a while.
            time.sleep(20)
        return True


class Redis(Fake):
    """Speaks RESP as far as a store of slots needs it."""

    def __init__(self, mood="good"):
        self.data = {}
        self.asked = []
        # An answer is this long under way.
        self.delay = 0.0
        self.refuse = None
        super().__init__(mood)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def serve(self, peer):
        mood = self.mood
        stream = peer.makefile("rb")
        late = queue.SimpleQueue()
        if self.delay:
            threading.Thread(target=self.deliver, args=(peer, late), daemon=True).start()
        while True:
            line = stream.readline()
            if not line:
                return
            if mood == "silent":
                continue
            words = []
            for _ in range(int(line[1:])):
                length = int(stream.readline()[1:])
                words.append(stream.read(length + 2)[:-2])
            name = words[0].upper()
            self.asked.append((time.monotonic(), name))
            setup = name in (b"CLIENT", b"HELLO", b"AUTH", b"SELECT")
            if mood == "garbage":
                peer.sendall(os.urandom(4096))
                return
            if mood == "huge-answer" and not setup:
                endless(peer, b"$2000000000\r\n")
                return
            if mood == "huge-list" and not setup:
                endless(peer, b"*2000000000\r\n", chunk=b":1\r\n" * (1 << 18))
                return
            if mood == "endless-line" and not setup:
                endless(peer, b"+", chunk=b"x" * (1 << 20))
                return
            if mood == "nested" and not setup:
                endless(peer, chunk=b"*1\r\n" * (1 << 18))
                return
            if mood == "closes-on-events" and name == b"XADD":
                self.mood = "good"
                return
            answer = self.answer(name, words)
            if self.delay:
                late.put((time.monotonic() + self.delay, answer))
                continue
            peer.sendall(answer)
            if mood == "closes-after-each":
                return

    def deliver(self, peer, late):
        """Answers in their order, each at its time."""
        with contextlib.suppress(OSError):
            while peer in self.open:
                at, answer = late.get()
                time.sleep(max(0, at - time.monotonic()))
                peer.sendall(answer)

    def answer(self, name, words):
        if name == self.refuse:
            return b"-NOPERM this user has no permissions to run the command\r\n"
        bulk = lambda value: b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
        key = words[1] if len(words) > 1 else b""
        if name == b"SETEX":
            self.data[key] = words[3]
            return b"+OK\r\n"
        if name == b"SET":
            if key not in self.data:
                self.data[key] = words[2]
                return b"+OK\r\n"
            return b"$-1\r\n"
        if name == b"GET":
            return bulk(self.data.get(key))
        if name == b"GETRANGE":
            return bulk(self.data.get(key, b"")[int(words[2]): int(words[3]) + 1])
        if name == b"STRLEN":
            return b":%d\r\n" % len(self.data.get(key, b""))
        if name == b"EXISTS":
            return b":%d\r\n" % (key in self.data)
        if name == b"XADD":
            self.data.setdefault(key, b"")
            return bulk(b"1-1")
        if name == b"CLUSTER":
            entry = b"*4\r\n" + bulk(b"127.0.0.1") + b":%d\r\n" % self.port + bulk(b"0" * 40) + b"*0\r\n"
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + entry
        if name == b"SENTINEL":
            return b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"%d" % self.port)
        if name == b"DEL":
            return b":%d\r\n" % (self.data.pop(key, None) is not None)
        return b":1\r\n" if name == b"EXPIRE" else b"+OK\r\n"


def peak(pid):
    """The most memory that a process had resident, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def cpu(pid):
    """Seconds of CPU that a process used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Finished:
    """A command that ran: exit code, what it said, and its memory at most in MiB."""

    def __init__(self, node, *arguments, stdin=None, timeout=60):
        import subprocess

        said = node.directory / "said"
        with open(said, "wb") as out:
            process = subprocess.Popen([str(kit.CGROVE), "--config", str(node.config), *map(str, arguments)], stdin=stdin, stdout=out, stderr=out, start_new_session=True)
            killer = threading.Timer(timeout * kit.PATIENCE, process.kill)
            killer.start()
            _, status, usage = os.wait4(process.pid, 0)
            killer.cancel()
        process.returncode = self.code = os.waitstatus_to_exitcode(status)
        self.text = said.read_text(errors="replace")
        self.peak = usage.ru_maxrss / 1024
