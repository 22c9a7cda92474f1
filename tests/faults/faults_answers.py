"""What answers a command is no daemon, or a bad one: the command ends, says so, and shows nothing of it."""

import base64
import hashlib
import os
import pathlib
import pty
import re
import struct
import subprocess
import time

import fakes
import kit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A command has 30 MiB of its own, a debug build some more; a message of 64 MiB is held twice while its buffer grows.
MEMORY = 400
# The first answer is there within 10 s, or the command ends; the rest is for many commands at a time on few cores.
PATIENCE = 25
COMMANDS = (["status"], ["status", "--follow"], ["events"], ["events", "--follow"], ["usage"], ["top"])


def frame(opcode, data, fin=True):
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    return bytes([(0x80 if fin else 0) | opcode]) + size + data


class Daemon(fakes.Fake):
    """Shakes hands as a daemon does; what it answers depends on the mood."""

    def serve(self, peer):
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += peer.recv(4096) or b"\r\n\r\n"
        if self.mood == "half a handshake":
            return self.wait(peer, b"HTTP/1.1 101 Switching Protocols\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (.*)\r", asked)[1].decode()
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        peer.sendall(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        peer.recv(4096)
        match self.mood:
            case "silence":
                self.wait(peer)
            case "pings":
                while True:
                    peer.sendall(frame(9, b"x"))
                    time.sleep(0.05)
            case "fragments":
                peer.sendall(frame(1, b" ", fin=False))
                while True:
                    peer.sendall(frame(0, b" " * 60_000, fin=False))
            case "other messages":
                while True:
                    peer.sendall(frame(1, b'{"subscription":"events","events":[]}' + b" " * 60_000))
            case "binary":
                self.wait(peer, frame(2, b"\0" * 100))
            case words:
                self.wait(peer, frame(1, words.encode()))

    @staticmethod
    def wait(peer, data=b""):
        peer.sendall(data)
        while peer.recv(4096):
            pass


class Command:
    """A command in a terminal of its own, whose output is kept."""

    def __init__(self, scene, url, arguments, said):
        self.arguments, self.said, self.began = arguments, pathlib.Path(said), time.monotonic()
        command = [str(kit.CGROVE), *arguments, "--url", url]
        if arguments == ["top"]:
            # Only in a terminal.
            ours, theirs = pty.openpty()
            scene.callback(os.close, ours)
            self.process = scene.process(*command, stdin=theirs, stdout=theirs, stderr=open(said, "wb"))
            os.close(theirs)
        else:
            with open(said, "wb") as out:
                self.process = scene.process(*command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def end(self):
        """Its exit code, and its memory at most in MiB."""
        left = self.began + PATIENCE * kit.PATIENCE - time.monotonic()
        while left > 0 and (ended := os.wait4(self.process.pid, os.WNOHANG))[0] == 0:
            time.sleep(0.05)
            left = self.began + PATIENCE * kit.PATIENCE - time.monotonic()
        assert left > 0, f"{self.arguments} still waits"
        self.process.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.process.returncode, ended[2].ru_maxrss / 1024


def bad_daemon(scene, mood, says, commands=COMMANDS):
    """Each command that is pointed at it ends with 69 and says what is wrong, within its patience."""
    scene.start(scene.shares(a=100, b=50))
    server = Daemon(mood)
    scene.callback(server.stop)
    url = f"ws://127.0.0.1:{server.port}"
    running = [Command(scene, url, list(arguments), scene.directory / f"said{i}") for i, arguments in enumerate(commands)]
    for command in running:
        code, peak = command.end()
        text = command.said.read_text(errors="replace")
        assert code == 69, (command.arguments, code, text)
        assert any(words in text for words in says) and url in text, (command.arguments, text)
        assert "null" not in text and "panicked" not in text and peak < MEMORY, (command.arguments, peak, text)


def bad_error(scene, commands=COMMANDS):
    """An error is shown as the daemon's, and ends every command alike."""
    scene.start(scene.shares(a=100, b=50))
    server = Daemon('{"error": "out of order"}')
    scene.callback(server.stop)
    running = [Command(scene, f"ws://127.0.0.1:{server.port}", list(arguments), scene.directory / f"said{i}") for i, arguments in enumerate(commands)]
    for command in running:
        code, _ = command.end()
        assert code == 69 and "out of order" in command.said.read_text(), (command.arguments, code, command.said.read_text())
