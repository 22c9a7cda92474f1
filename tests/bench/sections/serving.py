"""What clients cost, and how fast a change arrives."""

import contextlib
import json
import os
import selectors
import socket
import tempfile
import threading
import time

import measure
from measure import QUIET, helper, kit, names, process_ms

UPGRADE = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"


def run(bench, count):
    rendering(bench, count)
    with measure.node(measure.two_files(count), usage={"memory": "512M"}, **QUIET) as it:
        measure.ticked(it, 12)
        for _ in range(bench.rounds):
            question(bench, it, count, 10, 50)
        if count <= 1000:
            kit.eventually(lambda: it.status()["usage"]["held"] >= 295, timeout=400, pause=2)
            for _ in range(bench.rounds):
                question(bench, it, count, 300, 5)
            clients(bench, it, count)
    if count <= 1000:
        with measure.node(measure.two_files(count), server={"max_connections": 4096}, **QUIET) as it:
            measure.ticked(it)
            subscribers(bench, it, count, 2000)
        changes(bench, count)
    bench.close()


def rendering(bench, count):
    ours, values = helper("rendering", count, 15)
    bench.add("render a slot", count, "cgrove", ours)
    bench.add("render a slot", count, "serde_json's Value", values)


def idle_rate(pid, seconds=4):
    """What the daemon does anyway, a second."""
    spent, began = process_ms(pid), time.monotonic()
    time.sleep(seconds)
    return (process_ms(pid) - spent) / (time.monotonic() - began)


def question(bench, it, count, slots, times):
    """One answer, from the request's arrival to the last byte sent; CPU time of the whole daemon beyond its idle share."""
    pid, sock = it.process.pid, it.connect()
    idle = idle_rate(pid)
    spent, began = process_ms(pid), time.monotonic()
    for _ in range(times):
        sock.send(json.dumps({"cmd": "show_account", "args": {"nr_slot": slots}}))
        sock.recv()
    used = process_ms(pid) - spent - idle * (time.monotonic() - began)
    sock.close()
    bench.add(f"show_account, {slots} slots", count, "cgrove", used / times, note="sending included")


@contextlib.contextmanager
def readers(port, count, first):
    """So many clients that send `first` and read whatever comes; yields them and a count of bytes."""
    read, stop, wakeup = [0], threading.Event(), selectors.DefaultSelector()
    sockets = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        sock.sendall(UPGRADE.encode())
        reply = b""
        while not reply.endswith(b"\r\n\r\n"):
            reply += sock.recv(1)
        assert b" 101 " in reply, reply
        sock.setblocking(False)
        wakeup.register(sock, selectors.EVENT_READ)
        sockets.append(sock)

    def loop():
        buffer = bytearray(1 << 20)
        while not stop.is_set():
            for key, _ in wakeup.select(0.2):
                with contextlib.suppress(BlockingIOError):
                    got = key.fileobj.recv_into(buffer)
                    if not got:
                        wakeup.unregister(key.fileobj)
                    read[0] += got

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        for sock in sockets:
            if first:
                sock.send(first)
        yield sockets, read
    finally:
        stop.set()
        thread.join()
        for sock in sockets:
            sock.close()


def frame(message):
    """A client's text frame, masked with zeros."""
    text = json.dumps(message).encode()
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


def clients(bench, it, count):
    """100 clients, each of which asks for the last ten slots every second."""
    pid, ask = it.process.pid, frame({"cmd": "show_account", "args": {"nr_slot": 10}})
    idle = idle_rate(pid)
    with readers(it.port, 100, None) as (sockets, read):
        for _ in range(bench.rounds):
            spent, began, bytes_before = process_ms(pid), time.monotonic(), read[0]
            for second in range(5):
                for i, sock in enumerate(sockets):
                    sock.send(ask)
                    time.sleep(max(0, began + second + (i + 1) / 100 - time.monotonic()))
            took = time.monotonic() - began
            used = (process_ms(pid) - spent) / took - idle
            note = f"{(read[0] - bytes_before) / took / 2**20:.0f} MiB a second"
            bench.add("100 clients ask for 10 slots a second", count, "cgrove", used / 10, unit="%", note=f"of a core; {note}")


def subscribers(bench, it, count, many):
    pid = it.process.pid
    idle = idle_rate(pid)
    subscribe = frame({"cmd": "subscribe", "args": {"to": "slots"}})
    with readers(it.port, many, subscribe) as (_, read):
        time.sleep(3)
        for _ in range(bench.rounds):
            spent, began, bytes_before, slots = process_ms(pid), time.monotonic(), read[0], it.status()["usage"]["slots_total"]
            time.sleep(5)
            took = time.monotonic() - began
            used = (process_ms(pid) - spent) / took - idle
            note = f"{(read[0] - bytes_before) / took / 2**20:.0f} MiB a second; {it.status()['usage']['slots_total'] - slots} slots in {took:.0f} s"
            bench.add(f"{many} subscribers to slots", count, "cgrove", used / 10, unit="%", note=f"of a core; {note}")
        bench.add(f"resident with {many} subscribers", count, "cgrove", measure.rss_mib(pid), unit="MiB")


def changes(bench, count):
    """From the client's set() of the znode to the last of the new values in the kernel's files."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        server = stack.enter_context(kit.serving(kit.ZooKeeper(f"{directory}/zookeeper")))
        client = server.client()
        stack.callback(client.close)
        stack.callback(client.stop)
        tree = kit.Znode(client, server, "/bench")
        shares = {n: 100 for n in names(count)}
        tree.set(kit.cpu_tree(shares))
        it = stack.enter_context(measure.node(None, zookeeper=tree, **QUIET))
        file = "cpu.weight" if kit.V2 else "cpu.shares"
        files = {n: os.open(it.group("cpu", f"/{n}") / file, os.O_RDONLY) for n in names(count)}
        for fd in files.values():
            stack.callback(os.close, fd)
        now = lambda name: os.pread(files[name], 32, 0)

        def change(changed, value):
            shares.update(dict.fromkeys(changed, value))
            document = json.dumps(kit.cpu_tree(shares)).encode()
            before = {n: now(n) for n in changed}
            time.sleep(1.2)
            spent, began = process_ms(it.process.pid), time.perf_counter()
            client.set_async(tree.path, document)
            waiting = list(changed)
            while waiting:
                # In order, as they are written: the last one that is still old is waited for.
                while waiting and now(waiting[-1]) != before[waiting[-1]]:
                    waiting.pop()
                if time.perf_counter() - began > 20:
                    raise RuntimeError(f"{len(waiting)} knobs were not changed within 20 s")
                time.sleep(0.0005)
            took = time.perf_counter() - began
            time.sleep(0.3)
            return took * 1e3, process_ms(it.process.pid) - spent

        for i in range(3 * bench.rounds):
            for what, changed in (("1 knob", [names(count)[count // 2]]), ("all knobs", names(count))):
                took, cpu = change(changed, 200 + 2 * i + (what == "1 knob"))
                bench.add(f"znode set to last write, {what}", count, "cgrove", took, note="wall time")
                bench.add(f"the same, CPU time, {what}", count, "cgrove", cpu, note="the whole daemon for 0.3 s beyond it")
