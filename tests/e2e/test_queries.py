"""What can be asked: narrowed, as rates, of other nodes, over HTTP, and as it comes. docs/websocket.md is executed."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.parse

import pytest
import websocket

import kit
from kit import ROOT, V2, eventually, never

pytestmark = kit.once_a_version("debian12-hybrid")

try:
    import jsonschema
except ImportError:
    # Guests have no such package; the host's run holds messages against the schema.
    assert "CGROVE_TEST_HOST" in os.environ
    jsonschema = None

SCHEMA = json.loads((ROOT / "docs/websocket.schema.json").read_text()) if jsonschema else None


def valid(kind, message):
    if jsonschema:
        jsonschema.validate(message, {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
    return message


TREE = {"groups": {"web": {"knobs": {"cpu.weight": 800, "memory.max": "64M"}, "groups": {"a": {}, "b": {}}}, "batch": {}}}


@pytest.fixture
def running(node):
    node.write_tree(TREE)
    node.configure().start()
    # The first slot may be older than its groups.
    eventually(lambda: all("usage" in one(node, group=path)["cpu"]["value"] for path in ("/", "/web/a")))
    return node


# -- the page of documentation ---------------------------------------------------------------------------------------


def pattern(text):
    """A reply as the documentation shows it: `...` is more of the same."""
    text = re.sub(r"([{\[,] *)\.\.\.", r'\1"...": "..."', text)
    text = re.sub(r'(\[[^{\[\]]*?)"\.\.\.": "\.\.\."', r'\1"..."', text)
    text = re.sub(r'(\}, )"\.\.\.": "\.\.\."\]', r'\1"..."]', text)
    return json.loads(text)


def differs(shown, real, at="$"):
    """Where a real reply is not of the documented shape; numbers, and slots as keys, are examples."""
    if shown == "...":
        return None if isinstance(real, str) else f"{at}: {real!r} is no text"
    if isinstance(shown, bool) or isinstance(shown, str) or shown is None:
        return None if shown == real else f"{at}: {real!r} is not {shown!r}"
    if isinstance(shown, (int, float)):
        return None if isinstance(real, (int, float)) and not isinstance(real, bool) else f"{at}: {real!r} is no number"
    if isinstance(shown, list):
        more = "..." in shown
        shown = [s for s in shown if s != "..."]
        if not isinstance(real, list) or (len(real) != len(shown) and not more) or len(real) < len(shown):
            return f"{at}: {real!r} is not like {shown!r}"
        return next(filter(None, (differs(s, r, f"{at}[{i}]") for i, (s, r) in enumerate(zip(shown, real)))), None)
    if not isinstance(real, dict):
        return f"{at}: {real!r} is no object"
    real = {("SLOT" if k.isdigit() else k): v for k, v in real.items()}
    more = shown.pop("...", None)
    shown = {("SLOT" if k.isdigit() else k): v for k, v in shown.items()}
    if not (set(shown) <= set(real) and (more or set(shown) == set(real))):
        return f"{at}: has {sorted(real)}, not {sorted(shown)}"
    return next(filter(None, (differs(v, real[k], f"{at}.{k}") for k, v in shown.items())), None)


def test_the_matcher_can_fail():
    assert differs(pattern('{"a": 1, ...}'), {"a": 2, "b": 3}) is None
    assert differs(pattern('{"a": [{"b": 1}, ...]}'), {"a": [{"b": 5}, {}]}) is None
    for shown, real in [('{"a": 1}', {"a": 1, "b": 2}), ('{"a": "x"}', {"a": "y"}), ('{"a": [...], "b": 1}', {"a": {}, "b": 1}), ('{"5": {...}}', {"6": 1})]:
        assert differs(pattern(shown), real), shown


def test_every_example_of_the_documentation_holds(running):
    lines = [l[4:] for l in (ROOT / "docs/websocket.md").read_text().splitlines() if re.match(r"    [<>] ", l)]
    assert len(lines) > 20
    sock = running.connect()
    for line in lines:
        if line.startswith(">"):
            request = valid("request", json.loads(line[2:])) if "get_cnf" not in line else json.loads(line[2:])
            sock.send(json.dumps(request))
            continue
        reply = valid("reply", json.loads(sock.recv()))
        while "subscription" in reply and '"subscription"' not in line:
            # Another second may pass before a subscription ends.
            reply = valid("reply", json.loads(sock.recv()))
        assert differs(pattern(line[2:]), reply) is None, (request, line)


def test_the_python_example_runs(running):
    code = (ROOT / "docs/websocket.md").read_text().split("```python")[1].split("```")[0]
    code = code.replace("127.0.0.1:43409", f"127.0.0.1:{running.port}")
    client = subprocess.Popen(["/usr/bin/python3", "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = [client.stdout.readline() for _ in range(4)]
    finally:
        client.kill()
        client.wait()
    assert all(re.fullmatch(r"\d+ (web|batch) [\d.e-]+ cores\n", l) for l in lines), lines


def test_the_curl_examples_run(running):
    commands = re.findall(r"^    curl '(.*)'$", (ROOT / "docs/websocket.md").read_text(), re.M)
    assert len(commands) == 2
    for url in commands:
        status, body = running.http(urllib.parse.urlsplit(url).path + "?" + urllib.parse.urlsplit(url).query)
        assert status == 200 and valid("reply", json.loads(body))


# -- narrowing and rates ---------------------------------------------------------------------------------------------


def one(node, **args):
    return list(node.ask("show_account", nr_slot=1, **args).values())[0]


def test_narrowed_by_group_depth_and_controllers(running):
    assert set(one(running)) == {"cpu", "memory", "io", "pids"}
    assert set(one(running, controllers=["blkio", "cpu"])) == {"cpu", "io"}
    flat = one(running, depth=1)
    assert set(flat["cpu"]["sub_cgroup"]) == {"web", "batch"} and "sub_cgroup" not in flat["cpu"]["sub_cgroup"]["web"]
    assert "sub_cgroup" not in one(running, group="/web", depth=0)["cpu"]
    assert set(one(running, group="/web", depth=9)["cpu"]["sub_cgroup"]) == {"a", "b"}
    # Whoever asks for nothing special gets the stored bytes, whoever does, the same numbers.
    time.sleep(1)
    newest = running.status()["usage"]["newest_slot"]
    plain = running.ask("show_account", end_slot=newest, nr_slot=1)
    assert running.ask("show_account", end_slot=newest, nr_slot=1, depth=99) == plain


@kit.only_here
def test_every_nth_slot_is_counted_back_from_the_end(running):
    eventually(lambda: running.status()["usage"]["slots_total"] >= 5, timeout=15)
    newest = running.status()["usage"]["newest_slot"]
    slots = sorted(map(int, running.ask("show_account", end_slot=newest, nr_slot=5, step=2)))
    assert slots == [newest - 4, newest - 2, newest]


def test_rates_are_what_counters_grew_by(running, processes):
    busy = processes("sh", "-c", "while :; do :; done")
    running.put(busy.pid, "/web/a")
    eventually(lambda: one(running, group="/web/a", rates=True)["cpu"]["value"].get("usage", 0) > 1e8)
    eventually(lambda: running.status()["usage"]["slots_total"] >= 5)
    newest = running.status()["usage"]["newest_slot"]
    ask = lambda **args: running.ask("show_account", end_slot=newest, nr_slot=3, group="/web/a", **args)
    assert kit.consecutive(ask())
    raw, rates, steps = ask(), ask(rates=True), ask(rates=True, step=2)
    usage = [s["cpu"]["value"]["usage"] for s in raw.values()]
    assert [rates[str(newest - i)]["cpu"]["value"]["usage"] for i in (1, 0)] == [usage[1] - usage[0], usage[2] - usage[1]]
    assert steps[str(newest)]["cpu"]["value"]["usage"] == pytest.approx((usage[2] - usage[0]) / 2, abs=1)
    assert rates[str(newest)]["memory"] == raw[str(newest)]["memory"]


def test_a_group_made_anew_has_no_rate(running, processes):
    """Its counter may even be larger than the one before; nothing tells but the kernel."""
    eventually(lambda: "usage" in one(running, group="/batch", rates=True)["cpu"]["value"])
    directory = running.group("cpuacct", "/batch")
    before = directory.stat().st_ino
    directory.rmdir()
    eventually(lambda: directory.exists() and directory.stat().st_ino != before)
    time.sleep(2.5)
    slots = running.ask("show_account", nr_slot=8, group="/batch", rates=True, controllers=["cpu"])
    rates = ["usage" in s["cpu"]["value"] for s in slots.values()]
    assert rates[-1] and not all(rates), slots


# -- other ways to ask -----------------------------------------------------------------------------------------------


def test_http_asks_the_same(running):
    time.sleep(1)
    newest = running.status()["usage"]["newest_slot"]
    ask = lambda question: (lambda status, body: (status, json.loads(body)))(*running.http(f"/api/v1/{question}"))
    assert ask(f"show_account?end_slot={newest}&nr_slot=2") == (200, running.ask("show_account", end_slot=newest, nr_slot=2))
    assert ask("get_conf") == (200, {"version": 0, "value": TREE})
    assert ask("list_groups?group=%2Fweb")[1] == running.ask("list_groups", group="/web")
    assert ask("get_status")[1]["node"] == "node-1"
    for question, hint in [("show_account?nr_slot=x", "args.nr_slot"), ("show_acount", "did you mean show_account"), ("subscribe?to=slots", "WebSocket")]:
        status, body = ask(question)
        assert status == 400 and hint in body["error"]
    status, body = ask("get_group?group=/nothing")
    assert status == 404 and "/nothing" in body["error"]


def test_a_group_side_by_side(running):
    knobs = {k["knob"]: k for k in valid("reply", running.ask("get_group", group="/web"))["knobs"]}
    assert not knobs["cpu.weight"]["differs"] and not knobs["memory.max"]["differs"]
    assert knobs["memory.max"]["kernel"] == str(64 << 20) and knobs["memory.max"]["wanted"] == "64M"
    assert all(p["owned"] for p in running.ask("get_group", group="/web/a")["places"])


@kit.only_here
def test_a_range_from_redis_is_streamed_and_other_nodes_are_asked(node, redis_server, tmp_path):
    node.write_tree(TREE)
    settings = {"prefix": "test/{node}"}
    node.configure(redis=redis_server, redis_settings=settings, usage={"memory": 1}).start()
    eventually(lambda: node.status()["store"]["written_total"] >= 3, timeout=15)
    # Memory has the newest slot alone; the rest comes from Redis.
    assert node.status()["usage"]["held"] == 1
    slots = node.ask("show_account", nr_slot=3, rates=True, group="/web")
    assert len(slots) == 3 and "usage" in list(slots.values())[-1]["cpu"]["value"]
    # Another node of the same Redis; many slots, more than one chunk.
    now = int(time.time())
    for slot in range(now - 60, now):
        redis_server.client.set(f"test/node-2/account/{slot}", json.dumps({"cpu": {"value": {"usage": slot}}}), ex=300)
    answer = node.ask("show_account", node="node-2", nr_slot=50)
    assert sorted(map(int, answer)) == list(range(now - 50, now)) and kit.consecutive(answer)
    rates = node.ask("show_account", node="node-2", nr_slot=2, rates=True)
    assert list(rates.values()) == [{"cpu": {"value": {"usage": 1}}}] * 2
    assert node.ask("show_account", node="node-3") == {}
    assert json.loads(node.http("/api/v1/show_account?node=node-2&nr_slot=60")[1]).keys() >= answer.keys()


def test_without_a_node_in_the_prefix_others_are_not_known(node, redis_server):
    node.write_tree(TREE)
    node.configure(redis=redis_server).start()
    assert "{node}" in node.ask("show_account", node="node-2")["error"]


# -- as it comes -----------------------------------------------------------------------------------------------------


def receive(sock, wanted, timeout=10):
    """The next message that is wanted."""
    return eventually(lambda: (lambda m: m if wanted(m) else None)(valid("reply", json.loads(sock.recv()))), timeout=timeout, pause=0)


def test_slots_come_one_after_the_other(running):
    sock = running.connect()
    sock.send(json.dumps({"cmd": "subscribe", "args": {"to": "slots", "controllers": ["cpu"]}, "id": "x"}))
    assert json.loads(sock.recv()) == {"id": "x", "subscribed": "slots"}
    got = [valid("reply", json.loads(sock.recv())) for _ in range(4)]
    assert kit.consecutive([m["slot"] for m in got]) and all(m["id"] == "x" and set(m["value"]) == {"cpu"} for m in got)
    # A request is answered in between, and the subscription ends when it is told to.
    sock.send('{"cmd": "get_conf", "id": 2}')
    assert receive(sock, lambda m: m.get("id") == 2)["version"] == 0
    sock.send('{"cmd": "unsubscribe", "args": {"to": "slots"}, "id": 3}')
    receive(sock, lambda m: m.get("id") == 3)
    sock.settimeout(2.5)
    with pytest.raises(websocket.WebSocketTimeoutException):
        sock.recv()


@kit.only_here
def test_a_slow_subscriber_misses_the_oldest_and_is_told(node, processes):
    """A reader that stops for a while, of slots that do not fit into the sockets' buffers."""
    groups = {f"g{i}".ljust(120, "-"): {} for i in range(1500)}
    node.write_tree({"controllers": ["cpu", "memory"], "groups": groups})
    node.configure().start()
    eventually(lambda: node.status()["usage"]["newest_slot"])
    sock = node.connect(sockopt=((kit.socket.SOL_SOCKET, kit.socket.SO_RCVBUF, 1 << 16),))
    sock.send('{"cmd": "subscribe", "args": {"to": "slots"}}')
    for _ in range(2):
        sock.recv()
    dropped, last = 0, None
    sock.settimeout(20)
    deadline = time.monotonic() + 90 * kit.PATIENCE
    while not dropped and time.monotonic() < deadline:
        # Slower than slots come, yet never so slow as to be cut off.
        time.sleep(2.5)
        message = json.loads(sock.recv())
        if last is not None and (unmeasured := message["slot"] - last - 1 - message.get("dropped", 0)):
            # A busy machine misses a second now and then; that is a gap, and no drop.
            assert 0 < unmeasured <= node.status()["usage"]["gaps_total"], message["slot"]
        last, dropped = message["slot"], message.get("dropped", 0)
    assert dropped and node.status()["server"]["dropped_total"] >= dropped


def test_events_come_within_a_second(running, processes):
    sock = running.connect()
    sock.send('{"cmd": "subscribe", "args": {"to": "events"}, "id": "e"}')
    sock.recv()
    event = lambda kind, group: receive_event(sock, kind, group)
    began = time.time()
    running.make("cpu", "/stranger")
    assert event("group_appeared", "/stranger")["time"] / 1000 - began < 1 * kit.PATIENCE
    began = time.time()
    running.group("cpu", "/stranger").rmdir()
    assert event("group_disappeared", "/stranger")["time"] / 1000 - began < 1 * kit.PATIENCE
    running.set_shares("/web", 7)
    repaired = event("drift_repaired", "/web")
    assert repaired["knob"] == "cpu.weight" and repaired["text"].endswith("; it said 7")
    running.group("cpu", "/web/a").rmdir()
    # First what happened, then what was done about it.
    gone = event("group_disappeared", "/web/a")["seq"]
    again = event("drift_repaired", "/web/a")
    assert gone < again["seq"] and again["text"] == "created; it was gone"
    running.write_tree({**TREE, "groups": {**TREE["groups"], "new": {}}})
    assert event("document_in_force", None)["text"].startswith("version ")
    applied = event("plan_applied", None)
    assert applied["count"] > 0 and " created, " in applied["text"] and applied["text"].endswith("0 failed, 0 held")
    running.write_tree({"groups": {"..": {}}})
    assert "refused" in event("document_refused", None)["text"]
    # All of them are remembered, and can be chosen from.
    kinds = {e["kind"] for e in running.ask("get_events", nr=1000)["events"]}
    assert {"group_appeared", "group_disappeared", "drift_repaired", "plan_applied", "document_refused"} <= kinds
    only = running.ask("get_events", group="/stranger")["events"]
    assert {e["kind"] for e in only} == {"group_appeared", "group_disappeared"}
    last = only[-1]["seq"]
    assert all(e["seq"] > last for e in running.ask("get_events", after=last)["events"])
    # Whoever goes on from what is known misses nothing, however few come at a time.
    seen, after = [], 0
    while more := running.ask("get_events", after=after, nr=2)["events"]:
        seen += [e["seq"] for e in more]
        after = seen[-1]
    assert kit.consecutive(seen)


def receive_event(sock, kind, group):
    def wanted():
        for e in json.loads(sock.recv()).get("events", []):
            valid("event", e)
            if e["kind"] == kind and e.get("group") == group:
                return e

    return eventually(wanted, timeout=15, pause=0)


def test_lack_of_memory_is_told_on_either_version(running, processes):
    """v1 by the one eventfd for all groups, v2 by inotify."""
    hog = "import time\nwhile not open('/proc/self/cgroup').read().count('/web/b'): time.sleep(.01)\nx = bytearray(300 << 20)"
    process = processes("/usr/bin/python3", "-c", hog)
    running.put(process.pid, "/web/b", controllers=["memory"])
    began = time.time()
    assert process.wait(60) != 0
    died = time.time()

    def told():
        return [e for e in running.ask("get_events", kinds=["oom_kill"])["events"] if e["group"] in ("/web", "/web/b")]

    event = eventually(told)[-1]
    assert began <= event["time"] / 1000 <= died + 1.5 * kit.PATIENCE and event["count"] == 1


def test_a_group_made_anew_is_watched_again(running):
    """Nothing tells whoever watches a directory that it went; the new one has to be watched, for drift and events alike."""
    inode = lambda: running.group("cpu", "/web/a").stat().st_ino
    for _ in range(2):
        before = inode()
        running.group("cpu", "/web/a").rmdir()
        eventually(lambda: inode() != before)
    time.sleep(1.5)
    running.make("cpu", "/web/a/inner")
    eventually(lambda: [e for e in running.ask("get_events", group="/web/a/inner")["events"] if e["kind"] == "group_appeared"])
    # Drift is seen within a second, long before the next resync.
    running.set_shares("/web", 77)
    eventually(lambda: int(running.read("cpu", "/web", "cpu.weight" if V2 else "cpu.shares")) != 77, timeout=8)


@kit.only_here
def test_a_redis_user_who_may_not_add_events_still_gets_slots(node, redis_server):
    redis_server.client.execute_command("ACL", "SETUSER", "node", "on", ">secret", "~*", "+get", "+set", "+setex", "+exists", "+expire", "+del")
    node.write_tree(TREE)
    node.configure(redis={"url": f"redis://node:secret@127.0.0.1:{redis_server.port}"}).start()
    eventually(lambda: node.status()["store"]["written_total"] >= 3, timeout=20)
    assert never(lambda: not node.status()["store"]["connected"], during=3)
    assert node.log.read_text().count("events are not stored") == 1


@kit.only_here
def test_who_does_not_read_an_answer_is_cut_off(node):
    """A plain GET of a large range that nobody reads ends like a slow WebSocket."""
    groups = {f"g{i}".ljust(120, "-"): {} for i in range(1500)}
    node.write_tree({"controllers": ["cpu", "memory"], "groups": groups})
    node.configure().start()
    eventually(lambda: node.status()["usage"]["slots_total"] >= 8, timeout=30)
    before = node.status()["server"]["connections"]
    sock = kit.socket.create_connection(("127.0.0.1", node.port))
    sock.sendall(b"GET /api/v1/show_account?nr_slot=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: node.status()["server"]["connections"] > before)
    eventually(lambda: node.status()["server"]["connections"] <= before, timeout=25)
    sock.close()


@kit.only_v2
def test_a_kill_in_an_inner_groups_leaf_is_told(node, processes):
    """The kernel counts it for the leaf, which nobody sees; its group is told."""
    node.write_tree({"groups": {"a": {"knobs": {"memory.max": "32M"}, "pid_files": [str(node.directory / "pid")], "groups": {"b": {}}}}})
    node.configure().start()
    hog = "import time\nwhile '/a' not in open('/proc/self/cgroup').read(): time.sleep(.01)\ntime.sleep(1)\nx = bytearray(200 << 20)"
    process = processes("/usr/bin/python3", "-c", hog)
    node.pid_file("pid", process.pid)
    assert process.wait(60) != 0
    kills = lambda: [e["group"] for e in node.ask("get_events", kinds=["oom_kill"])["events"]]
    assert eventually(kills) == ["/a"]


@kit.only_v2
def test_filling_and_emptying_and_slowing_down_are_told(node, processes):
    node.write_tree({"groups": {"a": {"knobs": {"memory.high": "8M"}}}})
    node.configure().start()
    process = processes("/usr/bin/python3", "-c", "import time\ntime.sleep(2)\nx = bytearray(30 << 20)\ntime.sleep(100)")
    node.put(process.pid, "/a", controllers=["cpu"])
    kinds = lambda: [e["kind"] for e in node.ask("get_events", group="/a")["events"]]
    eventually(lambda: "populated" in kinds())
    eventually(lambda: "memory_high" in kinds(), timeout=30)
    kit.kill_group(process)
    eventually(lambda: kinds()[-1] == "empty")


@kit.only_v2
def test_a_group_that_comes_with_a_process_is_populated_all_the_same(node, processes):
    """However late it is looked at: one that has just been made was empty."""
    node.write_tree({"groups": {"a": {}}})
    node.configure().start()
    eventually(lambda: heard(node))
    process = processes("sleep", "100")
    with kit.frozen(node.process):
        node.make("cpu", "/b")
        node.put(process.pid, "/b", controllers=["cpu"])
        node.write_tree({"groups": {"a": {}, "b": {}}})
    kinds = lambda: [e["kind"] for e in node.ask("get_events", group="/b")["events"]]
    eventually(lambda: kinds()[:2] == ["group_appeared", "populated"])


def heard(node):
    """Does the daemon listen to the kernel by now?"""
    name = f"/heard-{time.monotonic_ns()}"
    node.make("cpu", name)
    told = lambda: node.ask("get_events", group=name)["events"]
    return not never(told, during=0.5)


def test_what_the_daemon_and_its_sources_do_is_told(node):
    node.write_tree(TREE)
    node.configure().start()
    kinds = lambda: [e["kind"] for e in node.ask("get_events")["events"]]
    eventually(lambda: "plan_applied" in kinds())
    assert kinds()[0] == "started" and "document_in_force" in kinds()
    node.tree.rename(node.directory / "aside")
    away = eventually(lambda: node.ask("get_events", kinds=["source_away"])["events"])
    assert str(node.tree) in away[0]["text"]
    (node.directory / "aside").rename(node.tree)
    eventually(lambda: kinds()[-1] == "source_back")
    node.process.send_signal(kit.signal.SIGHUP)
    eventually(lambda: "reloaded" in kinds())
    assert len(away) == 1 and "source_away" not in kinds()[kinds().index("reloaded"):]


def test_what_waits_is_told_with_its_group(node, processes):
    limit = "memory.max"
    node.write_tree({"groups": {"a": {"knobs": {limit: "200M"}}, **{f"g{i}": {} for i in range(12)}}})
    node.configure().start()
    hog = processes("/usr/bin/python3", "-c", "import time\nwhile '/a' not in open('/proc/self/cgroup').read(): time.sleep(.01)\nx = bytearray(60 << 20)\ntime.sleep(100)")
    node.put(hog.pid, "/a", controllers=["memory"])
    current = "memory.current" if kit.MOUNTS["memory"] == kit.UNIFIED else "memory.usage_in_bytes"
    eventually(lambda: int(node.read("memory", "/a", current)) > 60 << 20)
    node.write_tree({"groups": {"a": {"knobs": {limit: "10M"}}}})
    event = lambda kind: eventually(lambda: node.ask("get_events", kinds=[kind])["events"])[0]
    held = event("action_held")
    assert (held["group"], held["knob"]) == ("/a", limit) and "in use" in held["text"], held
    removals = event("removals_held")
    assert removals["count"] == 12 and "/g0 /g1 /g10 " in removals["text"] and "and 7 more" in removals["text"]
    assert node.ask("get_events", kinds=["plan_applied"])["events"][-1]["text"].endswith(" held")
    assert {h.get("knob") for h in node.status()["plan"]["held"]} == {None, limit}


@pytest.mark.skipif(kit.UNIFIED is None or not (kit.UNIFIED / "cpu.pressure").exists() and not os.path.exists("/proc/pressure"), reason="kernels with PSI only")
@kit.only_v2
def test_waiting_too_long_is_told(node, processes):
    node.write_tree({"groups": {"a": {"knobs": {"cpu.max": "5%"}}}})
    node.configure(events={"pressure": ["cpu some 20%"]}).start()
    for _ in range(3):
        node.put(processes("sh", "-c", "while :; do :; done").pid, "/a", controllers=["cpu"])
    event = eventually(lambda: node.ask("get_events", kinds=["pressure"], group="/a")["events"], timeout=20)[0]
    assert "cpu some 20%" in event["text"]


def test_events_are_in_redis_too(node, redis_server):
    node.write_tree(TREE)
    node.configure(redis=redis_server, events={"keep": 50}).start()
    stream = lambda: [json.loads(fields[b"event"]) for _, fields in redis_server.client.xrange("cgroup_arch/events")]
    eventually(lambda: any(e["kind"] == "plan_applied" for e in stream()))
    # What happens while Redis is away is told when it is back.
    redis_server.stop()
    eventually(lambda: node.ask("get_events", kinds=["store_away"])["events"])
    eventually(lambda: heard(node))
    node.make("cpu", "/stranger")
    eventually(lambda: any(e["kind"] == "group_appeared" for e in node.ask("get_events")["events"]))
    redis_server.start()
    eventually(lambda: any(e.get("group") == "/stranger" for e in stream()), timeout=20)
    assert not [e for e in stream() if e["kind"] == "plan_applied"]
    eventually(lambda: any(e["kind"] == "store_back" for e in stream()))


@kit.only_here
def test_clients_are_told_when_the_daemon_reloads_or_stops(running):
    def goodbye(sock):
        opcode, data = sock.recv_data()
        return opcode == websocket.ABNF.OPCODE_CLOSE and int.from_bytes(data[:2]) == 1001 and b"connect again" in data

    sock = running.connect()
    running.process.send_signal(kit.signal.SIGHUP)
    assert goodbye(sock)
    eventually(lambda: running.status()["ready"])
    sock = running.connect()
    running.process.send_signal(kit.signal.SIGTERM)
    assert goodbye(sock) and running.process.wait(10) == 0


@kit.only_here
def test_http_says_what_is_wrong(running):
    status = lambda question: running.http(f"/api/v1/{question}")[0]
    assert (status("get_group?group=/web"), status("get_group?group=/wbe"), status("get_group")) == (200, 404, 400)
    code, text = running.http("/api/v1/get_events?kinds=oom_kil")
    assert code == 400 and "did you mean oom_kill" in text
    assert running.http("/ws")[0] == 426


# -- what is collected -----------------------------------------------------------------------------------------------


def test_a_document_by_controller_has_cgrouparchs_values_alone(node):
    node.write_tree({"cpu": {"sub_cgroup": {"a": {}}}, "blkio": {"sub_cgroup": {"a": {}}}, "memory": {"sub_cgroup": {"a": {}}}})
    node.configure().start()
    # The first slot may be older than its groups.
    eventually(lambda: all(one(node, group="/a")[key]["value"] for key in ("cpu", "memory")))
    value = one(node, group="/a")
    assert set(value["cpu"]) == set(value["blkio"]) == set(value["memory"]) == {"value"}
    assert set(value["cpu"]["value"]) == {"usage"} and set(value["memory"]["value"]) == {"current"}


def test_all_that_can_be_collected(node):
    node.write_tree(TREE)
    node.configure(usage={"collect": "all"}).start()
    eventually(lambda: all(one(node, group="/web")[key]["value"] for key in ("cpu", "memory")))
    value = valid("slot", one(node, group="/web"))
    assert set(value["cpu"]["value"]) >= {"usage", "user", "system", "nr_periods", "nr_throttled", "throttled"}
    assert set(value["memory"]["value"]) >= {"current", "anon", "file", "refaults"}
    assert "oom_kill" in value["memory"]["events"]
    if V2 and os.path.exists("/proc/pressure"):
        assert {"some", "full"} <= set(value["memory"]["pressure"]) and "some" in value["cpu"]["pressure"]


def test_a_wrong_choice_is_refused(node):
    node.write_tree(TREE)
    for section, setting, hint in [("usage", {"collect": ["cpu", "memroy"]}, "memroy"), ("events", {"pressure": ["disk some 1%"]}, "memory full 10%")]:
        node.configure(**{section: setting})
        result = node.run("run", check=78)
        assert hint in result.stderr
