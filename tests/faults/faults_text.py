"""Hostile bytes in what others name and say: nothing of it steers root's terminal or forges a line of the log."""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata

import kit
from kit import eventually

# Each kind of character that must not arrive: escapes, line ends, bells, C1, bidirectional, unseen, private.
ESCAPES = "\x1b[31mRED\x1b]0;title\x07\x08\x7f\x9b2J\x85\u202e\u2066\u200b\u2028\ufeff\U000e0041\ue000"
FORGED = "2026-01-01T00:00:00.000000Z ERROR forged by a user"
HOSTILE = f"h{ESCAPES}\r\n{FORGED}\n\tcgrove: forged"
# The kernel takes no line's end in a group's name.
NAME = f"n{ESCAPES}x"


def is_clean(text):
    """No character that steers, hides or turns; lines end with a newline."""
    bad = sorted({c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp")})
    assert not bad, f"{[hex(ord(c)) for c in bad]} in {text!r}"


def output(node, *arguments, stdin=None):
    """What a command prints, as bytes that are UTF-8."""
    command = list(map(str, [kit.CGROVE, "--config", node.config, *arguments]))
    environment = {k: v for k, v in os.environ.items() if k != "CLICOLOR_FORCE"}
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=60 * kit.PATIENCE, env=environment)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def clean(node, *arguments, forged=True, **options):
    """The command prints nothing but text that shows, and no line that others forged. For people and for programs."""
    shown = ""
    for more in ([], ["--output", "json"]):
        code, out, err = output(node, *arguments, *more, **options)
        shown += out + err
        is_clean(out + err)
        assert "panicked" not in err, err
        lines = (out + err).splitlines()
        assert not any(line.startswith((FORGED, "cgrove: forged")) or line.strip() == "cgrove: forged" for line in lines), lines
        if more and code == 0 and out.strip():
            valid(out)
    return shown


def valid(out):
    """One JSON value, or one on each line."""
    try:
        json.loads(out)
    except ValueError:
        assert all(json.loads(line) is not None for line in out.splitlines()), out


def log_is_clean(node, json_lines=False):
    text = node.log.read_bytes().decode()
    is_clean(text)
    assert text and not any(line.startswith((FORGED, "\tcgrove: forged")) for line in text.splitlines()), text
    if json_lines:
        assert all(json.loads(line)["level"] for line in text.splitlines())
    return text


COMMANDS = [
    ["status"], ["tree"], ["events"], ["plan"], ["usage"], ["check"], ["convert"], ["apply"], ["cgexec", "a"], ["schema"],
    ["import", "--from", "host"], ["why", "1"], ["reclaim", "a", "1M"], ["exec", "a", "--", "true"],
]


def directories(scene):
    """Groups that others made, with names that are escapes, C1 controls, bidirectional, and no UTF-8 at all."""
    scene.start(scene.shares(a=100, b=50))
    for controller in ("cpu", "memory", "pids"):
        for below in ("", "/a"):
            if not scene.node.group(controller, below).exists():
                continue
            scene.node.make(controller, f"{below}/{NAME}")
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.fsencode(scene.node.group(controller, below)) + b"/bad\xff\x1b[2J\x9b")
    member = scene.process("sleep", "infinity")
    scene.node.put(member.pid, f"/{NAME}", ["cpu"])
    eventually(lambda: "group_appeared" in output(scene.node, "events")[1])
    shown = ""
    for command in [*COMMANDS, ["why", member.pid], ["plan", "-"]]:
        shown += clean(scene.node, *command, stdin=scene.node.tree.read_bytes() if "-" in command else None)
    assert "\\x1b[31mRED" in shown and "\\u202e" in shown, shown
    scene.restart()
    log_is_clean(scene.node)


def processes(scene):
    """Processes whose names and command lines are escapes and lines of a log."""
    code = f"import time,pathlib; pathlib.Path('/proc/self/comm').write_text({ESCAPES[:9]!r} + chr(10)); time.sleep(1000)"
    member = scene.process(sys.executable, "-c", code, HOSTILE)
    eventually(lambda: "RED" in pathlib.Path(f"/proc/{member.pid}/comm").read_text())
    document = {"groups": {"a": {"knobs": {"cpu.weight": 50}, "processes": [{"cmdline": "*RED*title*forged by a user*"}]}}}
    scene.members.add(member.pid)
    scene.node.write_tree(json.dumps(document))
    scene.start()
    eventually(lambda: kit.place(member.pid).endswith("/a"))
    shown = clean(scene.node, "why", member.pid)
    assert "\\x1b[31mRED" in shown, shown
    for command in COMMANDS:
        clean(scene.node, *command)
    log_is_clean(scene.node)


def pid_files(scene):
    """Pid files in a directory of others, whose names and contents are escapes and lines of a log."""
    spool = scene.directory / "spool"
    spool.mkdir()
    for name in (HOSTILE.replace("/", ""), f"{NAME}.pid"):
        (spool / name).write_text(HOSTILE)
    (spool / "b").symlink_to(f"/{NAME}")
    with open(os.fsencode(spool) + b"/bad\xff\x1b[2J", "w") as file:
        file.write("x")
    document = {"groups": {"a": {"knobs": {"cpu.weight": 50}, "pid_files": [f"{spool}/*"]}}}
    scene.node.write_tree(json.dumps(document))
    scene.start()
    eventually(lambda: len(scene.node.status()["tasks"]["problems"]) >= 3)
    shown = "".join(clean(scene.node, *command) for command in [*COMMANDS, ["why", "1"]])
    assert "\\x1b[31mRED" in shown and "\\x0a" in shown, shown
    log_is_clean(scene.node)


def documents(scene):
    """Documents with hostile keys, unknown keys, values and names, asked of every command, and refused by the daemon."""
    scene.start(scene.shares(a=100, b=50))
    ignored = {"cpu": {"sub_cgroup": {"a": {"conf": {"share": 100, HOSTILE: HOSTILE}, HOSTILE: 1}, "b": {"conf": {"share": 50}}}}}
    bad = [
        {"cpu": {"sub_cgroup": {HOSTILE: {}}}},
        {HOSTILE: {}},
        {"groups": {HOSTILE: {}}},
        {"groups": {"a": {HOSTILE: 1}}},
        {"groups": {"a": {"knobs": {HOSTILE: 1}}}},
        {"groups": {"a": {"knobs": {"cpu.weight": HOSTILE}}}},
        {"groups": {"a": {"knobs": {"cpuset.cpus": HOSTILE}}}},
        {"groups": {"a": {"knobs": {"io.max": {HOSTILE: {"rbps": 1}}}}}},
        {"groups": {"a": {"files": {f"cpu.{HOSTILE}": HOSTILE}}}},
        {"groups": {"a": {"pid_files": [HOSTILE]}}},
        {"groups": {"a": {"processes": [{"user": HOSTILE, "unit": HOSTILE, "exe": HOSTILE}]}}},
        {"controllers": [HOSTILE], "groups": {}},
        {"groups": {}, "allow_removals": HOSTILE},
        [HOSTILE],
    ]
    raw = [json.dumps(d, ensure_ascii=ascii).encode() for d in bad for ascii in (True, False)]
    raw += [f'{{"groups": {{"a": {{}}, "a{ESCAPES}'.encode(), b'{"groups": {"\xff\x1b[2J": 1}}', b"\x1b[2J\x9b", f'{{"a{NAME}": 1, "a{NAME}": 2}}'.encode()]
    path = scene.directory / "tree.json"
    for text in raw:
        path.write_bytes(text)
        for command in ("check", "plan", "convert"):
            clean(scene.node, command, path)
    path.write_text(json.dumps(ignored))
    shown = "".join(clean(scene.node, command, path) for command in ("check", "plan", "convert"))
    assert "\\u{1b}[31mRED" in shown, shown
    # The daemon says it in the log, in its status and as events.
    for text in [json.dumps(ignored).encode(), *raw[::5], raw[-1]]:
        scene.node.write_tree(text.decode("utf-8", "replace"))
        time.sleep(0.3)
    eventually(lambda: scene.node.status()["refused"])
    for command in (["status"], ["events"], ["tree"], ["usage"]):
        clean(scene.node, *command)
    text = log_is_clean(scene.node)
    assert "RED" in text, text
    scene.node.write_tree(scene.shares(a=100, b=50))
    eventually(lambda: not scene.node.status()["refused"])


def json_log(scene):
    """The log as JSON: each record is one line that is valid."""
    redis = hostile_redis(scene)
    scene.node.configure(redis={"url": f"redis://127.0.0.1:{redis.port}"}, usage={"store": "redis"})
    scene.node.write_tree(scene.shares(a=100))
    with open(scene.node.log, "ab") as log:
        command = ["setpriv", "--pdeathsig", "KILL", kit.CGROVE, "--log-format", "json", "run", "--config", scene.node.config]
        scene.node.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    eventually(lambda: scene.node.http("/readyz")[0] == 200)
    for document in ({HOSTILE: {}}, {"groups": {"a": {"knobs": {HOSTILE: 1}}}}):
        scene.node.write_tree(json.dumps(document))
        eventually(lambda: scene.node.status()["refused"])
    eventually(lambda: "redis: " in scene.node.log.read_text())
    assert "RED" in log_is_clean(scene.node, json_lines=True)
    scene.node.write_tree(scene.shares(a=100))


# -- peers that say what they like


class Listener(threading.Thread):
    """Accepts connections, each one served by a function in a thread of its own."""

    def __init__(self, serve):
        super().__init__(daemon=True)
        self.serve = serve
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.one, args=(self.sock.accept()[0],), daemon=True).start()

    def one(self, connection):
        with contextlib.suppress(OSError, ValueError, AttributeError), connection:
            self.serve(connection)

    def close(self):
        self.sock.close()


def websocket_server(answer, close=None):
    """A daemon that is none: it answers each request with what `answer` says of the request."""

    def serve(connection):
        stream = connection.makefile("rb")
        key = None
        while (line := stream.readline().strip()) != b"":
            if line.lower().startswith(b"sec-websocket-key:"):
                key = line.split(b":")[1].strip()
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while True:
            head = stream.read(2)
            if len(head) < 2:
                return
            size = head[1] & 0x7F
            size = struct.unpack(">H", stream.read(2))[0] if size == 126 else struct.unpack(">Q", stream.read(8))[0] if size == 127 else size
            mask, data = stream.read(4), stream.read(size)
            if head[0] & 0xF != 1:
                return
            request = json.loads(bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
            for reply in answer(request):
                connection.sendall(frame(0x81, reply if isinstance(reply, bytes) else json.dumps(reply, ensure_ascii=False).encode()))
            if close is not None:
                connection.sendall(frame(0x88, struct.pack(">H", 1000) + close.encode()))
                return

    return Listener(serve)


def frame(opcode, data):
    length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data)) if len(data) < 65536 else b"\x7f" + struct.pack(">Q", len(data))
    return bytes([opcode]) + length + data


def poisoned(value):
    """Every text of a reply is hostile, and every object has a hostile key."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [poisoned(v) for v in value] or [HOSTILE]
    if isinstance(value, dict):
        out = {k: poisoned(v) for k, v in value.items()}
        if "sub_cgroup" in out or "value" in out:
            out.setdefault("sub_cgroup", {})[HOSTILE] = {"value": {HOSTILE: 1}}
        return out
    return value


def hostile_daemon(scene):
    """What a daemon says that is only called one: hostile text in every field."""
    scene.start(scene.shares(a=100, b=50))
    eventually(lambda: len(scene.slots()) >= 2)
    real = {cmd: scene.node.ask(cmd, **args) for cmd, args in [("get_status", {}), ("get_events", {}), ("list_groups", {}), ("show_account", {"nr_slot": 2}), ("get_group", {"group": "/a"})]}
    real["get_status"]["plan"].update(
        failures=[{"hierarchy": "x", "group": "x", "error": "x"}], notes=[{"hierarchy": "x", "group": "x", "knob": "x", "text": "x"}],
        held=[{"hierarchy": "x", "group": "x", "why": "x"}], guard={"digest": "x", "why": "x", "approved": False}, progress="x",
    )
    real["get_status"].update(refused={"version": "x", "error": "x", "approve": "x"})
    real["get_status"]["source"].update(error="x", exposed="x")
    real["get_status"]["store"].update(error="x", owner_conflict="x")
    real["get_status"]["document"].update(warnings=["x"], version="x")

    def answer(request):
        cmd, mark = request["cmd"], request.get("id")
        if cmd == "unsubscribe":
            yield {"unsubscribed": HOSTILE}
            return
        if cmd == "subscribe":
            to = request["args"]["to"]
            yield {"id": mark, "subscribed": to}
            yield {"id": mark, "subscription": to, "value": poisoned(real["get_status" if to == "status" else "show_account"]), "slot": 2000000000, "events": poisoned(real["get_events"]["events"])}
            return
        reply = poisoned(real[cmd])
        if cmd == "show_account":
            reply = {"2000000000": {"cpu": {"value": {"usage": 1}, "sub_cgroup": {HOSTILE: {"value": {"usage": 2}}}}}}
        if mark is not None:
            reply["id"] = mark
        yield reply

    good = websocket_server(answer)
    sorry = websocket_server(lambda request: [{"error": HOSTILE}])
    garbage = websocket_server(lambda request: [f"{{{HOSTILE}".encode()])
    leaves = websocket_server(lambda request: [], close=f"bye{ESCAPES}"[:40])
    refuses = Listener(lambda c: c.sendall(f"HTTP/1.1 500 {NAME}\r\nX: {NAME}\r\n\r\n{HOSTILE}".encode()))
    for listener in (good, sorry, garbage, leaves, refuses):
        scene.callback(listener.close)
        for command in ("status", "events", "usage", "usage --slots 5", "events --group x", "events --kinds oom_kill"):
            shown = clean(scene.node, *command.split(), "--url", f"ws://127.0.0.1:{listener.port}")
            assert shown or listener is not good
    shown = clean(scene.node, "status", "--url", f"ws://127.0.0.1:{good.port}")
    assert shown.count("\\x1b[31mRED") > 20, shown
    followed(scene, good.port, "status", "--follow")
    followed(scene, good.port, "events", "--follow")
    top(scene, good.port)


def followed(scene, port, *arguments):
    command = [kit.CGROVE, "--config", scene.node.config, *arguments, "--url", f"ws://127.0.0.1:{port}"]
    process = scene.process(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen = b""
    deadline = time.monotonic() + 10 * kit.PATIENCE
    while b"RED" not in seen and time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.2)[0]:
            seen += os.read(process.stdout.fileno(), 65536)
    kit.kill_group(process)
    assert b"RED" in seen
    is_clean(seen.decode(errors="ignore"))


def top(scene, port):
    """The live view writes escapes of its own, and none of others."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color")
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.execv(kit.CGROVE, [str(kit.CGROVE), "--config", str(scene.node.config), "top", "--url", f"ws://127.0.0.1:{port}"])
    seen = b""
    try:
        deadline = time.monotonic() + 15 * kit.PATIENCE
        while time.monotonic() < deadline and b"RED" not in seen:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536)
        os.write(terminal, b"q")
        with contextlib.suppress(OSError):
            while select.select([terminal], [], [], 2)[0]:
                more = os.read(terminal, 65536)
                if not more:
                    break
                seen += more
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
    text = seen.decode(errors="ignore")
    assert "RED" in text, text
    bad = {"\x1b[31mRED", "\x07", "\x7f", "\x9b", "\x85", "\u202e", "\u2066", "\u200b", "\ufeff", "\ue000", "\x1b]0;"}
    assert not [b for b in bad if b in text], text
    # A character that is dropped, and not shown, would let two names look alike.
    assert "\\x1b" in text


def hostile_redis(scene):
    def serve(connection):
        while connection.recv(65536):
            connection.sendall(f"-ERR {NAME} {ESCAPES}\r\n".encode() * 3)

    listener = Listener(serve)
    scene.callback(listener.close)
    return listener


def redis_errors(scene):
    """A Redis whose errors are escapes and C1 controls."""
    listener = hostile_redis(scene)
    scene.start(scene.shares(a=100), redis={"url": f"redis://127.0.0.1:{listener.port}"}, usage={"store": "redis"})
    eventually(lambda: "RED" in (scene.node.status()["store"].get("error") or ""))
    shown = clean(scene.node, "status") + clean(scene.node, "events")
    assert "\\x1b[31mRED" in shown, shown
    assert "\\x1b[31mRED" in log_is_clean(scene.node)


def zookeeper_texts(scene):
    """A ZooKeeper that answers with text, and one whose document is hostile."""

    def serve(connection):
        while connection.recv(65536):
            connection.sendall(f"HTTP/1.1 400 {HOSTILE}".encode() * 2)

    listener = Listener(serve)
    scene.callback(listener.close)
    scene.node.configure(zookeeper=(f"127.0.0.1:{listener.port}", "/x"))
    for command in ("plan", "check", "tree", "convert"):
        clean(scene.node, command)
    scene.node.start(ready=False)
    eventually(lambda: scene.node.log.read_text())
    time.sleep(1)
    clean(scene.node, "status")
    log_is_clean(scene.node)


def arguments(scene):
    """Arguments and names that a script took from others: quoted, never written raw."""
    scene.start(scene.shares(a=100))
    text = HOSTILE
    commands = [
        ["approve", text], ["approve", f"0123456789abcde{ESCAPES[0]}"], ["why", text], ["exec", text, "--", "true"], ["cgexec", text],
        ["events", "--group", text], ["events", "--kinds", text], ["plan", f"/{NAME}"], ["check", text], ["convert", text], ["push", text],
        ["sign", text, text], ["reclaim", text, text], ["reclaim", "a", text], ["usage", "--group", text], ["usage", "--node", text],
        ["status", "--url", text], ["status", "--url", f"ws://{NAME}:1"], ["status", "--url", "ws://127.0.0.1:1", "--token-file", text],
        ["import", "--from", "libcgroup", text], ["import", "--from", text], ["completions", text], [text], [f"--{text}"], ["exec", "a", "--", text],
        ["man", f"/dev/null/{NAME}"], ["--config", f"/{NAME}", "plan"], ["--log-format", text, "plan"],
    ]
    for command in commands:
        shown = "".join(output(scene.node, *command)[1:])
        is_clean(shown)
        assert shown, command
    code, out, err = output(scene.node, "approve", f"0123456789abcdef{ESCAPES}")
    assert code == 64 and "16 hex digits" in err and not out
    bad = scene.directory / "bad.toml"
    bad.write_bytes(f'[tree]\nsource = "file"\n"{HOSTILE.encode("unicode_escape").decode().replace(chr(92) + "x", chr(92) + "u00")}" = 1\n'.encode())
    result = subprocess.run([kit.CGROVE, "--config", bad, "plan"], capture_output=True, timeout=60)
    is_clean((result.stdout + result.stderr).decode())


def libcgroup_files(scene):
    """libcgroup's files with hostile names, for `import`."""
    config, rules = scene.directory / "cgconfig.conf", scene.directory / "cgrules.conf"
    config.write_text(f'group "{NAME}" {{ cpu {{ "{NAME}" = "{ESCAPES}"; cpu.shares = 100; }} }}\n')
    rules.write_text(f"{NAME}:{ESCAPES} cpu {NAME}\n@x {NAME}\n")
    for files in ([config], [config, rules], [rules]):
        clean(scene.node, "import", "--from", "libcgroup", *files)


def shell_words(scene):
    """`$(cgrove cgexec NAME)` splits and expands what is printed: only plain words are."""
    scene.start(scene.shares(a=100))
    code, out, _ = output(scene.node, "cgexec", "a")
    assert code == 0 and out.startswith("-g cpu")
    for name in ("a b", "$(id)", "*", "a;id", "ä", "a'b", NAME):
        config = scene.directory / "shell.toml"
        config.write_text(scene.node.config.read_text().replace(json.dumps(scene.parent), json.dumps(f"{scene.parent}/{name}").replace("\\u007f", "\\u007F")))
        result = subprocess.run([kit.CGROVE, "--config", config, "cgexec", "a"], capture_output=True, timeout=60)
        assert result.returncode == 78 and not result.stdout, (name, result)
        is_clean(result.stderr.decode())
