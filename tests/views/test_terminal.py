"""`cgrove top` at 80x24, and the commands that print tables."""

import json
import re
import signal
import subprocess
import time

import pytest

import kit
from kit import CGROVE, eventually
from terminal import DOWN, ENTER, ESC, LEFT, RIGHT, terminal

TREE = {
    "groups": {
        "clients": {"groups": {f"vm-{i}": {"knobs": {"cpu.weight": 100 * i}} for i in range(1, 4)}},
        "batch": {"knobs": {"cpu.weight": 20}},
    }
}


@pytest.fixture
def running(node, processes):
    node.write_tree(TREE)
    node.configure(usage={"collect": "all"}).start()
    node.busy = processes("sh", "-c", "while :; do :; done")
    node.put(node.busy.pid, "/clients/vm-2")
    eventually(lambda: node.status()["usage"]["slots_total"] >= 4)
    return node


def top(node, *arguments):
    return terminal(CGROVE, "--config", node.config, "top", *arguments)


def rows(text):
    """Names of groups, in order."""
    return re.findall(r"^(?: *[▾▸] | +)?(/|batch|clients|vm-\d)(?= )", text, re.M)


def test_the_tree_live_sorted_filtered_folded(running):
    with top(running) as t:
        text = t.shows("cgrove on node-1", "document 0", "tree as declared", "live", "events", "plan_applied", "q quit")
        assert rows(text)[:3] == ["/", "clients", "vm-2"]
        assert float(re.search(r"vm-2 +([\d.]+)", text)[1]) > 5
        t.press("n")
        eventually(lambda: rows(t.text()) == ["/", "batch", "clients", "vm-1", "vm-2", "vm-3"])
        t.press("r")
        eventually(lambda: rows(t.text()) == ["/", "clients", "vm-3", "vm-2", "vm-1", "batch"])
        t.press("/vm-3" + ENTER)
        eventually(lambda: rows(t.text()) == ["/", "clients", "vm-3"])
        t.press(ESC)
        eventually(lambda: len(rows(t.text())) == 6)
        t.press(DOWN + LEFT)
        eventually(lambda: rows(t.text()) == ["/", "clients", "batch"])
        t.press(RIGHT + "f")
        t.shows("/clients/vm-2")
        t.press("?")
        t.shows("keys, any of them closes this", "filter by parts of paths")
        t.press("x" + "q")
        assert t.process.wait(10) == 0


def test_details_with_knobs_processes_history_and_events(running):
    with top(running) as t:
        t.shows("vm-2")
        t.press(DOWN + DOWN + ENTER)
        t.shows(" /clients/vm-2 ", "cpu.weight" if kit.V2 else "cpu.shares", "1 processes" if kit.V2 else "CPU,", "memory,")
        # Somebody writes again and again, so that a look falls between that and the repair.
        deadline = time.monotonic() + 20
        while "declared is" not in t.text() and time.monotonic() < deadline:
            running.set_shares("/clients/vm-2", 77)
        t.shows("drift_repaired")
        t.press(DOWN)
        t.shows(" /clients/vm-1 ")
        t.press(ESC)
        t.shows(" events ")


def test_pausing_and_looking_back(running):
    with top(running) as t:
        t.shows("live")
        shown = lambda: re.search(r"^(\d\d:\d\d:\d\d) UTC", t.text(), re.M)[1]
        t.press(" ")
        t.shows("paused")
        at = shown()
        time.sleep(2.2)
        assert shown() == at
        t.press("[[")
        eventually(lambda: shown() < at)
        t.shows("s back, paused")
        t.press("l")
        eventually(lambda: "live" in t.text() and shown() > at)


def test_a_daemon_that_goes_and_comes_back(running):
    with top(running) as t:
        t.shows("live")
        running.stop()
        t.shows("connection lost")
        running.start()
        t.shows("tree as declared", "live", timeout=20)


def test_nobody_there_is_said_in_plain_lines(node):
    node.write_tree(TREE)
    with terminal(CGROVE, "--config", node.config, "top") as t:
        t.shows("is `cgrove run` running?")
        assert t.process.wait(10) == 69
    # Without a terminal there is nothing to draw on.
    assert "usage --follow" in node.run("top", check=64).stderr


def test_a_signal_gives_the_screen_back(running):
    with top(running) as t:
        t.shows("live")
        t.process.terminate()
        assert t.process.wait(10) == 0
        t.read()
        assert t.raw.rstrip().endswith(b"\x1b[?25h") and b"\x1b[?1049l" in t.raw


def certificates(directory):
    run = lambda *c: subprocess.run(["openssl", *c], check=True, capture_output=True, cwd=directory)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "crt", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext", "basicConstraints=critical,CA:FALSE")


def test_another_node_over_tls_with_a_token(node, tmp_path):
    certificates(tmp_path)
    token = tmp_path / "token"
    token.write_text("a-token-of-sixteen-letters\n")
    node.write_tree(TREE)
    node.configure(server={"tls_certificate": str(tmp_path / "crt"), "tls_key": str(tmp_path / "key"), "trust_loopback": False})
    node.config.write_text(node.config.read_text() + f'\n[[server.tokens]]\nname = "t"\nroles = ["usage", "conf"]\nfile = "{token}"\n')
    # Even /healthz wants the token.
    log = open(node.log, "wb")
    node.process = subprocess.Popen([CGROVE, "run", "--config", node.config], stdout=log, stderr=log, start_new_session=True)
    whom = ["--url", f"wss://localhost:{node.port}", "--ca", tmp_path / "crt", "--token-file", token]
    ask = lambda *a: subprocess.run([CGROVE, *map(str, a)], capture_output=True, text=True, timeout=20)
    eventually(lambda: json.loads(ask("status", *whom, "--output", "json").stdout)["node"] == "node-1", timeout=20)
    assert ask("usage", *whom).returncode == 0
    with terminal(CGROVE, "top", *whom) as t:
        t.shows("cgrove on node-1", "vm-3")
    for wrong, hint in [(whom[:4], "--token-file"), (whom[:2], "--ca FILE"), (["--url", "nonsense"], "ws://HOST:PORT"), (["--url", "ws://localhost:99999"], "port"), (["--url", "ws://localhost:1", "--ca", token], "wss://"), ([*whom[:2], "--ca", token], "token")]:
        result = ask("status", *wrong)
        assert result.returncode in (64, 66, 69) and hint in result.stderr, result.stderr


def test_events_are_followed_and_chosen(running):
    follow = subprocess.Popen([CGROVE, "--config", running.config, "events", "--follow"], stdout=subprocess.PIPE, text=True)
    try:
        assert [re.split(" +", follow.stdout.readline())[1] for _ in range(3)] == ["started", "document_in_force", "plan_applied"]
        running.make("cpu", "/stranger")
        assert re.match(r"[\d-]+T[\d:.]+Z group_appeared    /stranger +the group appeared \[\S+\]\n", follow.stdout.readline())
    finally:
        follow.kill()
        follow.wait()
    lines = running.run("events", "--output", "json", "--kinds", "group_appeared", check=0).stdout.splitlines()
    assert [json.loads(l)["group"] for l in lines] == ["/stranger"]
    wrong = running.run("events", "--kinds", "group_apeared", check=64).stderr
    assert wrong.startswith('cgrove: --kinds has "group_apeared": did you mean group_appeared? known are started, '), wrong


def test_what_is_followed_goes_on_when_the_daemon_does(running):
    """Through a reload and a restart, without an event twice or one missing."""
    feeds = {command: subprocess.Popen([CGROVE, "--config", running.config, *command.split(), "--follow", "--output", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for command in ["events", "usage --slots 1", "status"]}
    try:
        first = {command: feed.stdout.readline() for command, feed in feeds.items()}
        assert all(first.values())
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: any(e["kind"] == "reloaded" for e in running.ask("get_events")["events"]))
        time.sleep(2)
        running.stop()
        time.sleep(1)
        running.start()
        running.write_tree({**TREE, "groups": {**TREE["groups"], "last": {}}})
        eventually(lambda: running.group("cpu", "/last").is_dir())
        time.sleep(3)
    finally:
        for feed in feeds.values():
            feed.terminate()
    told = {command: [first[command] + out, err] for command, feed in feeds.items() for out, err in [feed.communicate(timeout=10)]}
    for command, (_, err) in told.items():
        assert err.count("trying again") == err.count("connected again") == 2 and "stops or reloads" in err, (command, err)
    events = [json.loads(line) for line in told["events"][0].splitlines()]
    assert [e["kind"] for e in events].count("started") == 2
    numbers = [(e["time"], e["seq"]) for e in events]
    assert numbers == sorted(set(numbers)) and any(e.get("group") == "/last" for e in events)
    slots = [int(slot) for line in told["usage --slots 1"][0].splitlines() for slot in json.loads(line)]
    assert slots == sorted(set(slots)) and slots[-1] >= time.time() - 5
    pids = {json.loads(line)["pid"] for line in told["status"][0].splitlines()}
    assert len(pids) == 2


def test_groups_are_named_as_people_do(running):
    assert "/clients/vm-2" in running.run("usage", "--group", "clients", check=0).stdout
    assert running.run("usage", "--group", "vm-2", check=0).stdout.splitlines()[1].startswith("/clients/vm-2 ")
    for command, wrong, hint in [("usage", "/cleints", "did you mean /clients?"), ("usage", "vm-22", "did you mean vm-2"), ("events", "nonsense", "no group nonsense")]:
        assert hint in running.run(command, "--group", wrong, check=64).stderr
    # Things may have happened to a group that the document does not have.
    assert "warning" in running.run("events", "--group", "/elsewhere", check=0).stderr


def test_rates_over_more_slots_than_there_are(running):
    eventually(lambda: running.status()["usage"]["held"] >= 3)
    row = running.run("usage", "--slots", "300", "--group", "/clients", "--depth", "0", check=0).stdout.splitlines()[1]
    assert re.split(" +", row)[1] != "-"
    assert "0 is not in 1.." in running.run("usage", "--slots", "0", check=64).stderr


def test_tables_are_followed(running):
    def lines(*command, n):
        process = subprocess.Popen([CGROVE, "--config", running.config, *command], stdout=subprocess.PIPE, text=True)
        try:
            return [process.stdout.readline() for _ in range(n)]
        finally:
            process.kill()
            process.wait()

    text = "".join(lines("usage", "--follow", "--group", "/clients", n=10))
    assert text.count("slot ") >= 2 and "/clients/vm-2" in text
    slots = [json.loads(l) for l in lines("usage", "--follow", "--slots", "1", "--output", "json", n=3)]
    assert kit.consecutive([slot for s in slots for slot in s])
    assert "cgrove" in lines("status", "--follow", n=1)[0]
    assert "clients" in "".join(lines("tree", "--follow", n=4))


def test_kept_slots_become_a_picture(running, tmp_path):
    for name, magic in [("usage.png", b"\x89PNG"), ("usage.svg", b"<svg")]:
        running.run("usage", "--plot", tmp_path / name, check=0)
        assert (tmp_path / name).read_bytes().startswith(magic)
    text = (tmp_path / "usage.svg").read_text()
    assert "CPU, cores" in text and "/clients" in text
    running.run("usage", "--group", "/clients", "--plot", tmp_path / "clients.svg", check=0)
    assert "/clients/vm-2" in (tmp_path / "clients.svg").read_text()
    assert ".png or .svg" in running.run("usage", "--plot", tmp_path / "x.jpg", check=64).stderr
