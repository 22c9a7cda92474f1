"""A pseudo-terminal with a terminal emulator behind it."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios

import pyte

import kit


class Terminal:
    def __init__(self, fd, process, columns, lines):
        self.fd, self.process = fd, process
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def read(self, wait=0.05):
        while select.select([self.fd], [], [], wait)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return
            if not data:
                return
            self.raw += data
            self.stream.feed(data)

    def text(self):
        self.read()
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def shows(self, *wanted, timeout=10):
        def seen():
            text = self.text()
            missing = [w for w in wanted if w not in text]
            assert not missing, f"{missing} not in\n{text}"
            return text

        return kit.eventually(seen, timeout=timeout)


UP, DOWN, LEFT, RIGHT, ENTER, ESC = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C", "\r", "\x1b"


@contextlib.contextmanager
def terminal(*command, columns=80, lines=24):
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(list(map(str, command)), stdin=other, stdout=other, stderr=other, start_new_session=True, env={**os.environ, "TERM": "xterm-256color"})
    os.close(other)
    try:
        yield Terminal(main, process, columns, lines)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait(10)
        os.close(main)
