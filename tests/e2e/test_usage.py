"""Measurements: cgrouparch's shapes in Redis and over WebSocket, without a hole."""

import json
import pathlib
import subprocess
import time

import kit
from kit import README_TREE, consecutive, cpu_tree, eventually, never


def stored(server, prefix="cgroup_arch"):
    """slot -> value, as any Redis client sees it."""
    client = server.client
    keys = client.keys(f"{prefix}/account/*")
    return {int(k.rsplit(b"/", 1)[1]): json.loads(v) for k, v in zip(keys, client.mget(keys)) if v} if keys else {}


def test_redis_has_cgrouparchs_keys_and_values(node, redis_server):
    node.write_tree(README_TREE)
    node.configure(redis=redis_server).start()
    # The first slots may be older than the groups.
    complete = lambda: {s: v for s, v in stored(redis_server).items() if v["cpu"]["sub_cgroup"]["b"]["sub_cgroup"]["b1"]["value"]}
    slots = eventually(lambda: (lambda s: s if len(s) >= 3 else None)(complete()))
    assert abs(max(slots) - time.time()) < 3 * kit.PATIENCE
    for slot, value in slots.items():
        assert set(value) == {"cpu", "blkio"}
        assert set(value["cpu"]) == {"value", "sub_cgroup"} and set(value["cpu"]["sub_cgroup"]) == {"a", "b"}
        assert isinstance(value["cpu"]["sub_cgroup"]["b"]["sub_cgroup"]["b1"]["value"]["usage"], int)
        assert isinstance(value["cpu"]["value"]["usage"], int)
        assert value["blkio"]["sub_cgroup"]["a"] == {"value": {}}
        # v2's root, like v1's, knows the whole machine's traffic.
        assert kit.V1 or any(set(d) == {"Read", "Write"} for d in value["blkio"]["value"].values())
        assert "sub_cgroup" not in value["cpu"]["sub_cgroup"]["a"]
    ttl = redis_server.client.ttl(f"cgroup_arch/account/{max(slots)}")
    assert 290 < ttl <= 300
    assert redis_server.client.get("cgroup_arch/owner") == b"node-1"
    # The reply has the stored values.
    reply = node.ask("show_account", start_slot=min(slots), end_slot=max(slots))
    assert {int(k): v for k, v in reply.items()} == slots


def test_cpu_usage_counts_nanoseconds_since_the_group_was_made(node, processes):
    loop = processes("sh", "-c", "while :; do :; done")
    node.write_tree(cpu_tree({"a": 1024}))
    node.configure(pid_files={"a": node.pid_file("x.pid", loop.pid)}).start()
    eventually(lambda: node.pids("cpuacct", "/a"))
    time.sleep(3.5)
    usage = [v["cpu"]["sub_cgroup"]["a"]["value"]["usage"] for _, v in sorted(node.ask("show_account", nr_slot=3).items())]
    assert len(usage) == 3 and 0.3e9 < usage[2] - usage[1] < 1.7e9
    # The parent's own node sums everything below it.
    newest = list(node.ask("show_account", nr_slot=1).values())[0]
    assert newest["cpu"]["value"]["usage"] >= newest["cpu"]["sub_cgroup"]["a"]["value"]["usage"]


def test_by_group_documents_use_v2_names(node):
    node.write_tree({"groups": {"a": {"knobs": {"memory.max": "1G"}}}})
    node.start()
    newest = lambda: list(eventually(lambda: node.ask("show_account", nr_slot=1)).values())[0]
    # The first slot may be older than the group.
    eventually(lambda: newest()["memory"]["sub_cgroup"]["a"]["value"])
    newest = newest()
    assert list(newest) == ["cpu", "memory", "io", "pids"]
    assert newest["memory"]["sub_cgroup"]["a"]["value"] == {"current": 0}
    assert newest["pids"]["sub_cgroup"]["a"]["value"] == {"current": 0}


def test_slots_are_consecutive_while_trees_change(node):
    node.write_tree(cpu_tree({"a": 5}))
    node.start()
    for i in range(8):
        node.write_tree(cpu_tree({"a": 5, **{f"g{j}": 5 for j in range(i)}}))
        time.sleep(0.7)
    slots = [int(s) for s in node.ask("show_account", nr_slot=300)]
    assert len(slots) >= 5 and consecutive(slots)
    assert node.status()["usage"]["gaps_total"] == 0


def test_a_missing_group_loses_only_its_own_value(node):
    node.write_tree(cpu_tree({"a": 5, "b": 5}))
    node.configure(cgroup={"resync": "1h"}).start()
    # The first slots may be older than the groups.
    slots = lambda: {int(s): v["cpu"]["sub_cgroup"] for s, v in node.ask("show_account", nr_slot=60).items()}
    measured = lambda held: {s for s, groups in held.items() if "usage" in groups["a"]["value"]}
    first = min(eventually(lambda: measured(slots())))
    node.group("cpuacct", "/b").rmdir()
    eventually(lambda: node.group("cpuacct", "/b").is_dir(), timeout=5)
    # One answer, because the next may have a slot more.
    held = slots()
    assert {s for s in held if s >= first} == {s for s in measured(held) if s >= first}
    # Made anew, it is measured anew.
    slot = node.status()["usage"]["newest_slot"]
    newest = lambda: node.ask("show_account", start_slot=slot + 2, end_slot=slot + 2)
    assert "usage" in list(eventually(newest).values())[0]["cpu"]["sub_cgroup"]["b"]["value"]


@kit.only_here
def test_no_slot_of_a_redis_outage_is_missing(node, redis_server):
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(redis=redis_server).start()
    eventually(lambda: len(stored(redis_server)) >= 2)
    redis_server.stop()
    time.sleep(3)
    # Slots go on being answered.
    assert len(node.ask("show_account", nr_slot=3)) == 3
    assert not node.status()["store"]["connected"]
    assert node.http("/readyz")[0] == 200
    redis_server.start()
    held = lambda: {int(s) for s in node.ask("show_account", nr_slot=300)}
    # It came back empty: every slot is written again, those before the outage too.
    eventually(lambda: held() - set(stored(redis_server)) <= {max(held())} and len(stored(redis_server)) > 4)
    assert consecutive(stored(redis_server))
    first = min(stored(redis_server))
    assert redis_server.client.ttl(f"cgroup_arch/account/{first}") <= 300 - 4


@kit.only_here
def test_an_emptied_redis_is_filled_again(node, redis_server):
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(redis=redis_server).start()
    eventually(lambda: len(stored(redis_server)) >= 3)
    first = min(stored(redis_server))
    redis_server.client.flushall()
    eventually(lambda: first in stored(redis_server), timeout=5)
    assert node.status()["store"]["replayed_total"] >= 3


@kit.only_here
def test_a_hung_redis_delays_nobody(node, redis_server):
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(redis=redis_server).start()
    eventually(lambda: len(stored(redis_server)) >= 1)
    redis_server.pause()
    time.sleep(5)
    slots = [int(s) for s in node.ask("show_account", nr_slot=4)]
    assert len(slots) == 4 and consecutive(slots)
    redis_server.resume()
    eventually(lambda: set(slots) <= set(stored(redis_server)))


def test_what_memory_forgot_redis_answers(node, redis_server):
    node.write_tree(cpu_tree({"a": 5}))
    old = int(time.time()) - 50
    redis_server.client.set(f"cgroup_arch/account/{old}", '{"cpu": "from redis"}', ex=300)
    node.configure(redis=redis_server).start()
    eventually(lambda: node.ask("show_account", start_slot=old, end_slot=old) == {str(old): {"cpu": "from redis"}})


@kit.only_here
def test_compressed_slots_are_zstd_and_are_answered_as_before(node, redis_server):
    node.write_tree(cpu_tree({f"g{i}": 100 for i in range(200)}))
    node.configure(redis=redis_server, redis_settings={"compression": "zstd"}).start()
    key = eventually(lambda: redis_server.client.keys("cgroup_arch/account/*")[0])
    slot = key.decode().rsplit("/", 1)[1]
    packed = redis_server.client.get(key)
    # Not our reader: the command line tool of zstd.
    plain = subprocess.run(["zstd", "-d", "-c"], input=packed, stdout=subprocess.PIPE, check=True).stdout
    assert "sub_cgroup" in json.loads(plain)["cpu"] and len(packed) < len(plain) / 4
    # Memory forgets at the restart; Redis has both kinds afterwards.
    node.stop()
    node.configure(redis=redis_server, redis_settings={"compression": "none"}).start()
    newest = eventually(lambda: node.status()["usage"]["newest_slot"])
    eventually(lambda: json.loads(redis_server.client.get(f"cgroup_arch/account/{newest}")))
    answer = eventually(lambda: (lambda a: a if slot in a else None)(node.ask("show_account", start_slot=int(slot), end_slot=newest)))
    assert answer[slot] == json.loads(plain) and str(newest) in answer


@kit.only_here
def test_two_nodes_with_one_prefix_do_not_overwrite_each_other(node, redis_server):
    redis_server.client.set("cgroup_arch/owner", "node-2", ex=300)
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(redis=redis_server).start()
    eventually(lambda: node.status()["store"].get("owner_conflict") == "node-2")
    # What the other node measured is not ours to answer with.
    foreign = int(time.time()) - 50
    redis_server.client.set(f"cgroup_arch/account/{foreign}", "{}", ex=30)
    assert node.ask("show_account", start_slot=foreign, end_slot=foreign) == {}
    redis_server.client.delete(f"cgroup_arch/account/{foreign}")
    assert never(lambda: stored(redis_server))
    redis_server.client.delete("cgroup_arch/owner")
    eventually(lambda: len(stored(redis_server)) >= 3, timeout=15)
    node.stop()
    assert redis_server.client.get("cgroup_arch/owner") is None
    node.configure(redis=redis_server, redis_settings={"prefix": "site/{node}"}).start()
    eventually(lambda: stored(redis_server, "site/node-1"))


@kit.only_here
def test_the_password_is_read_again_from_its_file(node, redis_server):
    redis_server.client.config_set("requirepass", "first")
    secret = node.directory / "secret"
    secret.write_text("first\n")
    node.write_tree(cpu_tree({"a": 5}))
    node.configure(redis=redis_server, redis_settings={"password_file": str(secret)}).start()
    eventually(lambda: node.status()["store"]["connected"])
    import redis

    admin = redis.Redis(port=redis_server.port, password="first")
    admin.config_set("requirepass", "second")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: not node.status()["store"]["connected"])
    secret.write_text("second\n")
    eventually(lambda: node.status()["store"]["connected"])
    assert "second" not in node.log.read_text() and "second" not in json.dumps(node.status())


def test_all_threads_share_one_heap(node):
    """Each of glibc's further heaps is 64 MiB of addresses, at a multiple of that; what a thread frees there helps no other."""
    node.write_tree(cpu_tree({"a": 5}))
    node.configure().start()
    node.ask("show_account", nr_slot=1)
    size = 64 << 20
    maps = [line.split() for line in pathlib.Path(f"/proc/{node.process.pid}/maps").read_text().splitlines()]
    anonymous = [int(words[0].split("-")[0], 16) for words in maps if len(words) == 5 and words[1] == "rw-p"]
    assert len(maps) > 20 and not [hex(start) for start in anonymous if start % size == 0]
