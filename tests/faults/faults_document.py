"""Documents that are wrong, hostile, too large, or that take away too much."""

import json
import os
import pathlib
import re
import subprocess

import kit
from kit import cpu_tree, eventually

GOOD = {"groups": {"a": {"knobs": {"cpu.weight": 200}}, "b": {}}}
MIB = 1 << 20


def running(scene):
    """A daemon with a good document in force."""
    scene.start(scene.shares(a=100, b=50))
    scene.holds()


def put(scene, data):
    """The file's content, byte for byte."""
    new = scene.directory / "new.json"
    new.write_bytes(data)
    new.rename(scene.node.tree)


def check(scene, data):
    """What `cgrove check` says: None, or the error."""
    command = [str(kit.CGROVE), "check", "-"]
    result = subprocess.run(command, input=data, capture_output=True, timeout=60 * kit.PATIENCE)
    assert result.returncode in (0, 65), (result.returncode, result.stderr)
    assert b"panicked" not in result.stderr
    return None if result.returncode == 0 else result.stderr.decode()


def refused(scene, text=None, hex=None, repeat=None, says=""):
    """The running daemon refuses it whole, says why, and goes on as before; `check` says the same."""
    data = bytes.fromhex(hex) if hex is not None else (text * (repeat or 1)).encode()
    running(scene)
    put(scene, data)
    scene.refused(says)
    assert says in check(scene, data)
    assert scene.is_so()
    # A right one follows.
    put(scene, json.dumps(scene.shares(a=300, b=50)).encode())
    scene.holds()
    assert scene.node.status()["refused"] is None


def name_of_a_megabyte(scene):
    """What a document says is compared with what is known, and quoted, only as far as a name may be long."""
    data = json.dumps({"groups": {"a": {"knobs": {"x" * 1_000_000: 1}}}}).encode()
    before = os.times().children_user
    error = check(scene, data)
    assert os.times().children_user - before < 1 * kit.PATIENCE
    assert "unknown knob" in error and len(error) < 3000
    refused(scene, data.decode(), says="unknown knob")
    assert len(scene.node.log.read_text()) < 20_000


def mistakes_without_end(scene):
    running(scene)
    document = scene.shares(a=300, b=50)
    document["cpu"]["sub_cgroup"]["a"]["conf"].update({f"wait{i}": 1 for i in range(60_000)})
    scene.node.write_tree(document)
    scene.holds()
    assert len(scene.node.status()["document"]["warnings"]) == 101
    assert len(scene.node.log.read_text()) < 60_000


def truncated_everywhere(scene):
    data = (kit.ROOT / "config/example-tree.json").read_bytes()
    errors = {end: check(scene, data[:end]) for end in range(len(data.rstrip()))}
    assert all(errors.values()), [end for end, error in errors.items() if not error]
    running(scene)
    for end in range(1, len(data.rstrip()), len(data) // 6):
        put(scene, data[:end])
        eventually(lambda: scene.node.status()["refused"])
        assert scene.is_so()
        put(scene, json.dumps(cpu_tree({"a": 100, "b": 50})).encode())
        eventually(lambda: scene.node.status()["refused"] is None)


def deep(scene):
    for text in ('{"groups":' * 100_000, "[" * 100_000, '{"groups":{"a":' + '{"groups":{"a":' * 40 + "{}" + "}}" * 41):
        assert check(scene, text.encode())
    running(scene)
    put(scene, b'{"groups":' * 100_000)
    eventually(lambda: scene.node.status()["refused"])


def names_differ_in_case(scene):
    """The kernel tells them apart, so do we."""
    scene.start(scene.shares(a=100, A=300))
    scene.holds()


def kernel_files(scene, version):
    """Every file that this kernel puts into a group, and every one that the other version knows, is no group's name."""
    names = set()
    mounts = {m for c, m in kit.MOUNTS.items() if (m == kit.UNIFIED) == (version == 2)}
    for mount in mounts:
        probe = pathlib.Path(f"{mount}{scene.parent}/probe")
        probe.mkdir(parents=True)
        for directory in (mount, probe):
            names |= {e.name for e in directory.iterdir() if e.is_file()}
    known = json.loads(subprocess.run([kit.CGROVE, "schema"], capture_output=True, check=True).stdout)
    listed = {n for n in known["$defs"]["group"]["properties"]["knobs"]["properties"]}
    names |= listed | {"tasks", "notify_on_release", "release_agent", "_tasks", "cgroup.procs", "cgroup.events", "cgroup.kill"}
    assert len(names) > 20
    taken = [n for n in sorted(names) if not check(scene, json.dumps({"groups": {n: {}}}).encode())]
    # Not files of groups: what v1's root alone has.
    assert set(taken) <= {"cgroup.sane_behavior"}, taken


def knob_boundaries(scene):
    """Every numeric knob takes its ends and refuses one beyond, in both directions."""
    schema = json.loads(subprocess.run([kit.CGROVE, "schema"], capture_output=True, check=True).stdout)
    knobs = schema["$defs"]["group"]["properties"]["knobs"]["properties"]
    tried = 0
    with_knob = lambda name, value: check(scene, json.dumps({"groups": {"a": {"knobs": {name: value}}}}).encode())
    for name, rule in knobs.items():
        for part in [rule, *rule.get("anyOf", []), *rule.get("oneOf", [])]:
            if part.get("type") != "integer":
                continue
            for key, step in (("minimum", -1), ("maximum", 1)):
                edge = part.get(key)
                if edge is None or abs(edge) >= 1 << 53:
                    continue
                error = with_knob(name, edge)
                assert error is None or "two names" in error or "needs" in error, (name, edge, error)
                error = with_knob(name, edge + step)
                assert error and name in error, (name, edge + step, error)
                tried += 1
    assert tried >= 40, tried


def kernel_clamps(scene):
    """A value that the kernel rounds settles, and the next plan is empty."""
    odd = 123_457 if kit.V2 else 100_003
    scene.start({"groups": {"a": {"knobs": {"memory.max": odd, "cpu.weight": 200}}}})
    eventually(lambda: scene.node.status()["plan"]["rounds"] >= 1)
    eventually(lambda: scene.node.run("plan").returncode == 0)
    file = "memory.max" if kit.V2 else "memory.limit_in_bytes"
    assert 0 < int(scene.node.read("memory", "/a", file)) <= odd


def kernel_refuses(scene):
    """One knob that the kernel refuses costs no other, and is named."""
    nodes = "cpuset.mems"
    scene.start({"groups": {"a": {"knobs": {nodes: "63", "cpu.weight": 200}}, "b": {"knobs": {"cpu.weight": 300}}}})
    failure = eventually(lambda: scene.node.status()["plan"]["failures"])[0]
    assert failure["knob"] == nodes and failure["group"] == "/a" and failure["errno"]
    weight = lambda name: scene.node.shares(f"/{name}") == {"a": 2048, "b": 3072}[name]
    eventually(lambda: weight("a") and weight("b"))


def sized(size):
    """A document of exactly so many bytes."""
    body = json.dumps(GOOD)
    return (body + " " * (size - len(body))).encode()


def size(scene, bytes, fits):
    data = sized(bytes)
    assert len(data) == bytes
    error = check(scene, data)
    assert (error is None) == fits and (fits or "1048576" in error), error
    running(scene)
    put(scene, data)
    if fits:
        scene.wanted = {"a": 2048}
        scene.holds()
    else:
        scene.refused("1048576")


def groups(scene, number, fits):
    """As many groups as a document may have: the smallest names, so that they fit into 1 MiB."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_@"
    base = len(digits)
    name = lambda n: digits[n // base // base] + digits[n // base % base] + digits[n % base]
    document = "{\"groups\":{" + ",".join(f'"{name(n)}":{{}}' for n in range(number)) + "}}"
    assert len(document) < MIB
    error = check(scene, document.encode())
    assert (error is None) == fits and (fits or "50000" in error), error
    running(scene)
    if not fits:
        put(scene, document.encode())
        scene.refused("50000")


def memory_below_use(scene, allowed):
    """A limit below what the group uses now is held, unless the document says that the kernel may reclaim."""
    file = "memory.max" if kit.V2 else "memory.limit_in_bytes"
    scene.start({"groups": {"a": {"knobs": {"memory.max": "400M"}}}})
    eventually(lambda: scene.node.read("memory", "/a", file) == str(400 << 20))
    # Page cache can be reclaimed, so nobody dies.
    data = scene.directory / "data"
    place = scene.node.group("memory", "/a") / "cgroup.procs"
    eater = scene.process("sh", "-c", f"echo $$ >{place} && head -c 60M /dev/zero >{data} && cat {data} >/dev/null && sleep 600")
    scene.members.add(eater.pid)
    used = lambda: int(scene.node.read("memory", "/a", "memory.current" if kit.V2 else "memory.usage_in_bytes"))
    eventually(lambda: used() > 50 << 20, timeout=30)
    document = {"groups": {"a": {"knobs": {"memory.max": "20M", "cpu.weight": 300}, **({"allow_reclaim": True} if allowed else {})}}}
    scene.node.write_tree(document)
    eventually(lambda: scene.node.shares("/a") == 3072)
    if allowed:
        eventually(lambda: scene.node.read("memory", "/a", file) == str(20 << 20), timeout=20)
    else:
        held = eventually(lambda: scene.node.status()["plan"]["held"])
        assert "allow_reclaim" in held[0]["why"]
        assert scene.node.read("memory", "/a", file) == str(400 << 20)
    assert eater.poll() is None


def many(number):
    return {f"g{i}": 100 + i % 50 for i in range(number)}


def removal(scene, of, share=None, leaves=None):
    """More than half, or all, waits for an operator; everything else of the change is applied at once."""
    scene.start(scene.shares(**many(of)))
    scene.holds(30)
    stays = leaves if leaves is not None else of - (of * share + 99) // 100
    before = scene.wanted
    scene.wanted = {**{n: s for n, s in list(before.items())[:stays]}, "fresh": 700}
    scene.node.write_tree(cpu_tree(scene.wanted) if stays or leaves is None else cpu_tree({"fresh": 700}))
    scene.holds(30)
    guard = eventually(lambda: scene.node.status()["plan"]["guard"])
    assert not guard["approved"] and all(scene.node.group("cpu", f"/{n}").exists() for n in before)
    scene.node.run("approve", guard["digest"], check=0)
    eventually(lambda: not any(scene.node.group("cpu", f"/{n}").exists() for n in list(before)[stays:]), timeout=30)


def removal_of_all(scene):
    scene.start(scene.shares(**many(10)))
    scene.holds()
    before = list(scene.wanted)
    scene.wanted = {}
    scene.node.write_tree({"groups": {}})
    guard = eventually(lambda: scene.node.status()["plan"]["guard"])
    assert not guard["approved"] and all(scene.node.group("cpu", f"/{n}").exists() for n in before)


def removal_allowed(scene, digest):
    """The document's own permission counts when it names the document that it replaces, and only then."""
    scene.start(scene.shares(**many(12)))
    scene.holds()
    old = scene.node.status()["document"]["digest"]
    scene.node.write_tree(scene.shares(**many(13)))
    scene.holds()
    right = eventually(lambda: (lambda d: d if d != old else None)(scene.node.status()["document"]["digest"]))
    named = {"right": right, "old": old, "wrong": "0123456789abcdef"}[digest]
    before = list(scene.wanted)
    scene.node.write_tree({**scene.shares(g0=100, fresh=9), "allow_removals": named})
    scene.holds()
    gone = lambda: not any(scene.node.group("cpu", f"/{n}").exists() for n in before[1:])
    if digest == "right":
        eventually(gone)
    else:
        assert not eventually(lambda: scene.node.status()["plan"]["guard"])["approved"]
        assert not gone() and all(scene.node.group("cpu", f"/{n}").exists() for n in before)


def raw_pids(scene):
    """cgrouparch's injected pids are ignored with a warning; nobody is moved by a document's numbers."""
    victim = scene.process("sleep", "600")
    at = kit.real_place(victim.pid)
    document = scene.shares(a=100)
    document["cpu"]["sub_cgroup"]["a"]["conf"]["pids"] = [victim.pid, 1, os.getpid()]
    scene.start(document)
    scene.holds()
    assert any("pids" in w for w in scene.node.status()["document"]["warnings"])
    eventually(lambda: scene.node.status()["tasks"]["at"])
    assert kit.real_place(victim.pid) == at and not scene.node.pids("cpu", "/a")
    error = check(scene, json.dumps({"groups": {"a": {"pids": [1]}}}).encode())
    assert re.search(r"unknown key|pids", error)
