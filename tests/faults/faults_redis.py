"""Redis away, hung, slow, full, read-only, replaced, poisoned: no slot is lost within usage.keep."""

import json
import signal
import socket
import threading
import time

import redis

import kit
from kit import eventually

PREFIX = "cgroup_arch"


def stored(server):
    """Slots that Redis has, by number."""
    client = server.client
    strings = [key for key in client.keys(f"{PREFIX}/account/*") if client.type(key) == b"string"]
    return {int(key.rsplit(b"/", 1)[1]): client.get(key) for key in strings}


def running(scene, server, **settings):
    scene.start(scene.shares(a=100, b=50), redis=server, **settings)
    eventually(lambda: scene.node.status()["store"]["written_total"] >= 2)


def nothing_lost(scene, server):
    """Every slot that the node measured is in Redis, whole, with what is left of its time."""

    def complete():
        have = scene.slots()[:-1]
        there = stored(server)
        assert have and not [s for s in have if s not in there], [s for s in have if s not in there]
        return all("cpu" in json.loads(there[s]) for s in have)

    eventually(complete, timeout=20)
    client = server.client
    for slot in scene.slots()[:-1][:5]:
        left = client.ttl(f"{PREFIX}/account/{slot}")
        assert 0 < left <= 300 - (time.time() - slot) + 3, (slot, left)
    usage = scene.node.status()["usage"]
    assert usage["gaps_total"] == 0 and kit.consecutive(scene.slots())


def down_at_start(scene):
    server = scene.redis()
    server.stop()
    scene.start(scene.shares(a=100), redis=server)
    eventually(lambda: len(scene.slots()) >= 3)
    server.start()
    nothing_lost(scene, server)


def refused(scene):
    server = scene.redis()
    running(scene, server)
    server.stop()
    time.sleep(4)
    assert scene.node.http("/readyz")[0] == 200 and not scene.node.status()["store"]["connected"]
    server.start()
    nothing_lost(scene, server)


def hung(scene):
    server = scene.redis()
    running(scene, server)
    server.pause()
    time.sleep(6)
    start = time.monotonic()
    assert len(scene.slots()) >= 5 and time.monotonic() - start < 5 * kit.PATIENCE
    server.resume()
    nothing_lost(scene, server)


def slow(scene):
    """Each answer takes longer than a second."""
    server = scene.redis()
    running(scene, server)
    admin = server.client
    for _ in range(5):
        admin.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        time.sleep(1.7)
    nothing_lost(scene, server)


def full(scene):
    server = scene.redis("--maxmemory-policy", "noeviction")
    running(scene, server)
    server.client.config_set("maxmemory", "1")
    eventually(lambda: "OOM" in scene.node.status()["store"].get("error", "") or "memory" in scene.node.status()["store"].get("error", ""))
    time.sleep(3)
    server.client.config_set("maxmemory", "0")
    nothing_lost(scene, server)


def read_only_replica(scene):
    """The server that we write to becomes a replica, and later a master again."""
    server, other = scene.redis(), scene.redis()
    running(scene, server)
    server.client.execute_command("REPLICAOF", "127.0.0.1", str(other.port))
    eventually(lambda: scene.node.status()["store"].get("error"), timeout=15)
    time.sleep(2)
    server.client.execute_command("REPLICAOF", "NO", "ONE")
    nothing_lost(scene, server)


def sentinel_failover(scene, dies):
    """The master dies, or becomes a replica and goes on answering; the sentinels name another one."""
    master, replica = scene.redis(), None
    replica = scene.redis("--replicaof", f"127.0.0.1 {master.port}")
    config = scene.directory / "sentinel.conf"
    port = kit.free_port()
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {scene.directory}\nsentinel monitor cg 127.0.0.1 {master.port} 1\n"
                      "sentinel down-after-milliseconds cg 1000\nsentinel failover-timeout cg 5000\n")
    sentinel = scene.process("redis-sentinel", config, stdout=open(scene.directory / "sentinel.log", "ab"))
    assert sentinel.poll() is None
    eventually(lambda: redis.Redis(port=port).sentinel_slaves("cg"), timeout=20)
    scene.start(scene.shares(a=100, b=50), redis={"url": f"redis+sentinel://127.0.0.1:{port}/cg"})
    eventually(lambda: scene.node.status()["store"]["written_total"] >= 2)
    eventually(lambda: stored(replica))
    if dies:
        master.stop()
    else:
        redis.Redis(port=port).execute_command("SENTINEL", "FAILOVER", "cg")
    eventually(lambda: replica.client.info("replication")["role"] == "master", timeout=40)
    nothing_lost(scene, replica)


def password_rotated(scene):
    server = scene.redis("--requirepass", "first")
    secret = scene.directory / "secret"
    secret.write_text("first\n")
    scene.start(scene.shares(a=100), redis={"url": server.url, "password_file": str(secret)})
    eventually(lambda: scene.node.status()["store"]["written_total"] >= 2)
    admin = redis.Redis(port=server.port, password="first")
    admin.config_set("requirepass", "second")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: not scene.node.status()["store"]["connected"], timeout=15)
    secret.write_text("second\n")
    eventually(lambda: scene.node.status()["store"]["connected"], timeout=15)
    there = redis.Redis(port=server.port, password="second")
    eventually(lambda: not [s for s in scene.slots()[:-1] if not there.exists(f"{PREFIX}/account/{s}")], timeout=20)


def poisoned(scene):
    """What somebody else wrote under our keys breaks no answer."""
    server = scene.redis()
    running(scene, server)
    client = server.client
    now = int(time.time())
    for i, value in enumerate([b"", b"poison", b"\xff\xfe", b"{", b"[1]", b"null", json.dumps("x" * 100_000).encode()], 20):
        client.set(f"{PREFIX}/account/{now - i}", value, ex=300)
    client.lpush(f"{PREFIX}/account/{now - 40}", "no string")
    client.set(f"{PREFIX}/account/{now - 41}", json.dumps({"cpu": {"value": {}}}), ex=300)
    reply = scene.node.ask("show_account", nr_slot=60)
    assert all(isinstance(slot, dict) for slot in reply.values()), reply
    assert set(map(int, reply)) >= set(s for s in scene.slots() if s < now)
    assert scene.node.ask("show_account", nr_slot=60, group="/a")
    client.delete(f"{PREFIX}/account/{now - 41}")
    nothing_lost(scene, server)


def cluster(scene):
    """A cluster's node says where a key lives; the key is written there."""
    servers = [scene.redis("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{i}.conf", "--cluster-port", str(kit.free_port())) for i in range(3)]
    import subprocess

    subprocess.run(["redis-cli", "--cluster", "create", *(f"127.0.0.1:{s.port}@{s.client.config_get('cluster-port')['cluster-port']}" for s in servers), "--cluster-yes"], check=True, capture_output=True, timeout=60)
    eventually(lambda: all(b"cluster_state:ok" in s.client.execute_command("CLUSTER", "INFO") if isinstance(s.client.execute_command("CLUSTER", "INFO"), bytes) else s.client.execute_command("CLUSTER", "INFO").get("cluster_state") == "ok" for s in servers), timeout=30)
    scene.start(scene.shares(a=100), redis={"url": servers[0].url, "cluster": True})
    eventually(lambda: scene.node.status()["store"]["written_total"] >= 4, timeout=20)

    def complete():
        there = {k for s in servers for k in stored(s)}
        return not [s for s in scene.slots()[:-1] if s not in there]

    eventually(complete, timeout=20)
    # A few keys may happen to live on one server; one more comes each second.
    eventually(lambda: sum(bool(stored(s)) for s in servers) >= 2, timeout=20)
