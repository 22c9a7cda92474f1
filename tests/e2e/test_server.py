"""The port: requests, errors, limits, and who may ask."""

import json
import socket
import time

import pytest
import websocket

import kit
from kit import README_TREE, cpu_tree, eventually

pytestmark = kit.once_a_version("debian12-hybrid", "debian13-v2")


def assert_closed(sock):
    """The server ended the connection; saying nothing for long is no end."""
    try:
        opcode, _ = sock.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        pass


@pytest.fixture
def running(node):
    node.write_tree(README_TREE)
    node.configure(server={"hosts": ["cg.example"]}).start()
    eventually(lambda: node.status()["usage"]["newest_slot"])
    return node


def test_show_account_ranges(running):
    time.sleep(3)
    newest = running.status()["usage"]["newest_slot"]
    slots = lambda **args: sorted(map(int, running.ask("show_account", **args)))
    assert slots(nr_slot=2, end_slot=newest) == [newest - 1, newest]
    assert slots(start_slot=newest - 1, end_slot=newest) == [newest - 1, newest]
    assert slots(end_slot=newest, nr_slot=1) == [newest]
    assert len(slots()) <= 10
    assert slots(nr_slot=0) == [] and slots(start_slot=newest, end_slot=newest - 1) == []
    # A wide range costs nothing and is answered with what there is.
    assert slots(nr_slot=10**9)[-1] >= newest and slots(start_slot=0, end_slot=10**12)[-1] >= newest
    # args may be left out, or null.
    for request in ('{"cmd": "show_account"}', '{"cmd": "show_account", "args": null}'):
        sock = running.connect()
        sock.send(request)
        assert len(json.loads(sock.recv())) >= 1


def test_a_subtree(running):
    value = list(running.ask("show_account", nr_slot=1, group="/b/b1").values())[0]
    assert list(value) == ["cpu"] and set(value["cpu"]) == {"value"}
    assert [g["path"] for g in running.ask("list_groups", group="/b")["groups"]] == ["/b", "/b/b1"]


def test_errors_leave_the_connection_usable(running):
    sock = running.connect("/ws")
    for request, hint in [
        ("hello", "not JSON"),
        ("[]", 'no "cmd"'),
        ('{"cmd": 5}', 'no "cmd"'),
        ('{"cmd": "show_acount"}', "did you mean show_account"),
        ('{"cmd": "show_account", "args": []}', "not an object"),
        ('{"cmd": "show_account", "args": {"nr_slot": -1}}', "args.nr_slot"),
        ('{"cmd": "show_account", "args": {"nr_slot": "5"}}', "whole number"),
        ('{"cmd": "show_account", "args": {"end_slot": 1.5}}', "args.end_slot"),
        ('{"cmd": "show_account", "args": {"group": "b"}}', "starts with `/`"),
    ]:
        sock.send(request)
        assert hint in json.loads(sock.recv())["error"], request
    sock.send_binary(b"{}")
    assert "text" in json.loads(sock.recv())["error"]
    sock.send('{"cmd": "get_conf"}')
    assert json.loads(sock.recv()) == {"version": 0, "value": README_TREE}


def test_status_and_groups(running):
    status = running.status()
    assert status["node"] == "node-1" and status["ready"] and status["source"]["kind"] == "file"
    assert status["document"]["groups"] == 3
    groups = {g["path"]: g for g in running.ask("list_groups")["groups"]}
    assert groups["/a"]["controllers"] == ["cpu", "cpuacct", "io"]


def test_http_pages(running):
    assert running.http("/healthz") == (200, "ok\n")
    assert running.http("/readyz") == (200, "ready\n")
    code, page = running.http("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert code == 200 and page.endswith("# EOF\n") and "cgrove_ready 1" in page
    assert running.http("/")[0] == 200 and running.http("/nothing")[0] == 404


def test_not_ready_says_why(node):
    node.configure(zookeeper=("127.0.0.1:1", "/x")).start(ready=False)
    code, why = eventually(lambda: (lambda r: r if "127.0.0.1:1" in r[1] else None)(node.http("/readyz")))
    assert code == 503 and "source not connected" in why and "no document is in force" in why
    assert node.http("/healthz")[0] == 200
    assert "no document is in force" in node.ask("get_conf")["error"]


def test_pages_of_other_sites_are_refused(running):
    port = running.port
    for headers, code in [
        ({"Host": f"127.0.0.1:{port}"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "node-1:80"}, 200),
        ({"Host": "cg.example"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": f"http://127.0.0.1:{port}"}, 200),
        ({"Origin": "null"}, 403),
    ]:
        assert running.http("/healthz", headers)[0] == code, headers
    with pytest.raises(websocket.WebSocketBadStatusException):
        running.connect(origin="http://evil.example")


def test_other_addresses_need_a_decision(node):
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(server={"listen": f"0.0.0.0:{node.port}"})
    result = node.run("run", check=78)
    assert "server.allow_from" in result.stderr and "server.insecure" in result.stderr
    node.configure(server={"listen": [f"127.0.0.1:{node.port}", f"0.0.0.0:{kit.free_port()}"], "allow_from": ["10.0.0.0/8"]}).start()


def test_requests_have_a_limit(running):
    sock = running.connect()
    sock.send(json.dumps({"cmd": "get_conf", "args": {"x": "y" * 60_000}}))
    assert "value" in json.loads(sock.recv())
    sock.send("x" * 70_000)
    assert_closed(sock)
    assert running.http("/healthz")[0] == 200


def test_connections_are_capped_and_recover(node):
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(server={"max_connections": 5}).start()
    held = [node.connect() for _ in range(5)]
    with pytest.raises((websocket.WebSocketException, ConnectionError)) as refused:
        node.connect()
    assert not refused.errisinstance(websocket.WebSocketTimeoutException)
    held.pop().close()
    eventually(lambda: node.http("/healthz")[0] == 200)


@kit.only_here
def test_a_slow_reader_slows_nobody_and_is_dropped(node):
    """It asks for far more than the socket buffers hold, and reads nothing."""
    node.write_tree({"groups": {f"group-{i:03}": {} for i in range(200)}, "controllers": ["cpu"]})
    node.start()
    eventually(lambda: len(node.ask("show_account", nr_slot=5)) == 5)
    slow = socket.create_connection(("127.0.0.1", node.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.send(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in slow.recv(1000)
    request = b'{"cmd":"show_account","args":{"nr_slot":5}}'
    frame = bytes([0x81, 0x80 | len(request), 0, 0, 0, 0]) + request
    slow.settimeout(1)
    try:
        for _ in range(3000):
            slow.send(frame)
    except TimeoutError:
        pass  # The server stopped reading: it waits for us.
    before = time.monotonic()
    assert node.ask("show_account", nr_slot=1)
    assert time.monotonic() - before < 1
    eventually(lambda: node.status()["server"]["connections"] == 1, timeout=20)
    slow.close()


@kit.only_here
def test_large_replies_are_streamed_whole(node):
    node.write_tree({"groups": {f"group-{i:03}": {} for i in range(400)}, "controllers": ["cpu", "memory", "pids", "io"]})
    node.start()
    # An emulated machine may miss a second now and then.
    enough = 10 if kit.PATIENCE == 1 else 6
    eventually(lambda: len(node.ask("show_account", nr_slot=10)) >= enough, timeout=20)
    reply = node.ask("show_account", nr_slot=10)
    assert len(json.dumps(reply)) > 50_000 * enough
    assert all(len(v["cpu"]["sub_cgroup"]) == 400 for v in reply.values())


@kit.only_here
def test_a_large_document_and_a_large_slot_are_answered(node):
    """One slot, and the document, larger than any buffer on the way."""
    names = [f"a-group-with-a-rather-long-name-so-that-slots-grow-{i:04}-{'x' * 60}" for i in range(6000)]
    node.write_tree({"cpu": {"sub_cgroup": {n: {} for n in names}}})
    node.start(ready=False)
    reply = eventually(lambda: node.ask("show_account", nr_slot=1), timeout=30)
    assert len(json.dumps(reply)) > 800_000
    assert len(list(reply.values())[0]["cpu"]["sub_cgroup"]) == 6000
    assert set(node.ask("get_conf")["value"]["cpu"]["sub_cgroup"]) == set(names)


def test_clients_are_let_go_at_a_reload(running):
    sock = running.connect()
    running.process.send_signal(1)
    assert_closed(sock)
    assert running.http("/healthz")[0] == 200


def test_the_close_is_answered(running):
    sock = running.connect()
    sock.send_close(1000)
    assert sock.recv_frame().opcode == websocket.ABNF.OPCODE_CLOSE
