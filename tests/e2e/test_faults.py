"""ZooKeeper, Redis and the daemon may go away at any time: the tree stays, sampling goes on, changes are picked up."""

import json
import os
import signal
import time

import kit
from kit import Znode, consecutive, cpu_tree, eventually, never


def prepared(node, server, document):
    client = server.client()
    tree = Znode(client, server, "/faults")
    tree.set(document)
    node.configure(zookeeper=tree).start()
    return tree


def update(server, document):
    """With a fresh client, as an operator would."""
    client = server.client()
    try:
        return Znode(client, server, "/faults").set(document)
    finally:
        client.stop()
        client.close()


@kit.only_here
def test_zookeeper_killed_and_restarted(node, own_zookeeper):
    prepared(node, own_zookeeper, cpu_tree({"a": 100}))
    own_zookeeper.stop()
    eventually(lambda: not node.status()["source"]["connected"])
    # Drift is repaired meanwhile.
    node.set_shares("/a", 7)
    eventually(lambda: node.shares("/a") == 100, timeout=5)
    own_zookeeper.start()
    update(own_zookeeper, cpu_tree({"a": 200}))
    eventually(lambda: node.shares("/a") == 200, timeout=15)
    update(own_zookeeper, cpu_tree({"a": 300}))
    eventually(lambda: node.shares("/a") == 300, timeout=1)
    assert consecutive(node.ask("show_account", nr_slot=300))


@kit.only_here
def test_zookeeper_emptied_changes_nothing(node, own_zookeeper):
    prepared(node, own_zookeeper, cpu_tree({"a": 100}))
    own_zookeeper.stop()
    own_zookeeper.wipe()
    own_zookeeper.start()
    error = eventually(lambda: (lambda e: e if e and "does not exist" in e else None)(node.status()["source"].get("error")), timeout=20)
    assert "cgrove push" in error
    assert node.shares("/a") == 100
    update(own_zookeeper, cpu_tree({"a": 200}))
    eventually(lambda: node.shares("/a") == 200, timeout=5)


def test_znode_deleted_and_made_again(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    node.configure(zookeeper=zookeeper).start()
    zookeeper.client.delete(zookeeper.path)
    eventually(lambda: "does not exist" in node.status()["source"].get("error", ""))
    assert node.group("cpu", "/a").is_dir()
    zookeeper.set(cpu_tree({"a": 200}))
    eventually(lambda: node.shares("/a") == 200, timeout=2)
    zookeeper.set(b"")
    assert "empty" in eventually(lambda: node.status()["refused"])["error"]
    assert node.group("cpu", "/a").is_dir()


@kit.only_here
def test_the_daemon_stopped_past_its_sessions_end(node, own_zookeeper):
    prepared(node, own_zookeeper, cpu_tree({"a": 100}))
    eventually(lambda: node.status()["usage"]["newest_slot"])
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(5)  # The session is 2 s.
    update(own_zookeeper, cpu_tree({"a": 200}))
    node.process.send_signal(signal.SIGCONT)
    eventually(lambda: node.shares("/a") == 200, timeout=10)
    update(own_zookeeper, cpu_tree({"a": 300}))
    eventually(lambda: node.shares("/a") == 300, timeout=1)
    # The seconds that it slept are counted gaps.
    eventually(lambda: node.status()["usage"]["gaps_total"] >= 4)


@kit.only_here
def test_zookeeper_hung(node, own_zookeeper):
    prepared(node, own_zookeeper, cpu_tree({"a": 100}))
    own_zookeeper.pause()
    eventually(lambda: not node.status()["source"]["connected"], timeout=20)
    own_zookeeper.resume()
    eventually(lambda: node.status()["source"]["connected"], timeout=20)
    update(own_zookeeper, cpu_tree({"a": 300}))
    eventually(lambda: node.shares("/a") == 300, timeout=5)


def test_a_node_boots_right_while_zookeeper_is_away(node, own_zookeeper):
    prepared(node, own_zookeeper, cpu_tree({"a": 100}))
    assert node.stop() == 0
    own_zookeeper.stop()
    for directory in {node.group(controller, "/a") for controller in ("cpu", "cpuacct")}:
        directory.rmdir()
    node.start(ready=False)
    eventually(lambda: node.shares("/a") == 100)
    assert node.status()["document"]["last_good"]
    assert node.http("/readyz")[0] == 503
    own_zookeeper.start()
    eventually(lambda: node.http("/readyz")[0] == 200, timeout=15)
    assert not node.status()["document"]["last_good"]


def test_without_any_document_nothing_is_touched(node, own_zookeeper):
    node.make("cpu", "/precious")
    own_zookeeper.stop()
    node.configure(zookeeper=(own_zookeeper.hosts, "/faults"), cgroup={"prune": "all"}).start(ready=False)
    assert never(lambda: not node.group("cpu", "/precious").exists())


@kit.only_here
def test_a_wrong_password_is_said_and_mended_from_outside(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    secret = node.directory / "zk-secret"
    secret.write_text("user:mistaken\n")
    node.configure(zookeeper=zookeeper)
    text = node.config.read_text().replace('["digest:user:password"]', f'[{{ scheme = "digest", credential_file = "{secret}" }}]')
    node.config.write_text(text)
    node.start(ready=False)
    error = eventually(lambda: node.status()["source"].get("error"))
    assert "not authorized" in error and "zookeeper.auth" in error
    # Opening the znode is seen without a restart.
    import kazoo.security

    zookeeper.client.set_acls(zookeeper.path, kazoo.security.OPEN_ACL_UNSAFE)
    eventually(lambda: node.shares("/a") == 100)
    assert "mistaken" not in node.log.read_text() and "mistaken" not in json.dumps(node.status())


def test_a_credential_file_is_read_again(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    secret = node.directory / "zk-secret"
    secret.write_text("user:wrong\n")
    node.configure(zookeeper=zookeeper)
    node.config.write_text(node.config.read_text().replace('["digest:user:password"]', f'[{{ scheme = "digest", credential_file = "{secret}" }}]'))
    node.start(ready=False)
    eventually(lambda: "not authorized" in node.status()["source"].get("error", ""))
    secret.write_text("user:password\n")
    eventually(lambda: node.shares("/a") == 100)


def test_dead_and_unresolvable_servers_in_the_list(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    hosts = f"127.0.0.1:1,no-such-host.invalid:2181,{zookeeper.server.hosts}"
    node.configure(zookeeper=(hosts, zookeeper.prefix)).start(ready=False)
    eventually(lambda: node.shares("/a") == 100, timeout=20)


def test_chroot(node, zookeeper):
    zookeeper.set(cpu_tree({"a": 100}))
    node.configure(zookeeper=(f"{zookeeper.server.hosts}{zookeeper.prefix}", "/")).start()
    zookeeper.set(cpu_tree({"a": 200}))
    eventually(lambda: node.shares("/a") == 200, timeout=1)


def test_killed_and_started_again(node):
    node.write_tree(cpu_tree({"a": 100, "b": 5}))
    node.start()
    node.stop(signal.SIGKILL)
    assert node.shares("/a") == 100
    node.write_tree(cpu_tree({"a": 200}))
    node.start()
    eventually(lambda: node.shares("/a") == 200 and not node.group("cpu", "/b").exists())


def test_signals(node):
    node.write_tree(cpu_tree({"a": 100}))
    for sig in (signal.SIGTERM, signal.SIGINT):
        node.start()
        assert node.stop(sig) == 0
        assert node.group("cpu", "/a").is_dir()


def test_reload(node):
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    eventually(lambda: len(node.ask("show_account", nr_slot=300)) >= 2)
    node.make("cpu", "/stray")
    good = node.config.read_text()
    node.config.write_text(good + "\n[cgroup]\nnonsense = 1\n")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the configuration stays as it was" in node.log.read_text())
    assert node.group("cpu", "/stray").is_dir() and node.http("/readyz")[0] == 200
    node.configure(cgroup={"prune": "all"})
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: not node.group("cpu", "/stray").exists())
    # An address that cannot be had changes nothing either.
    node.config.write_text(node.config.read_text().replace(f"127.0.0.1:{node.port}", "192.0.2.1:43409"))
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "192.0.2.1:43409" in node.log.read_text())
    assert node.http("/readyz")[0] == 200
    # Measurements in memory survive a reload.
    assert len(node.ask("show_account", nr_slot=300)) >= 2


def test_one_daemon_for_each_parent(node, tmp_path):
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    second = kit.Node(tmp_path / "second", node.parent)
    second.write_tree(cpu_tree({"b": 100}))
    result = second.run("run", check=69)
    assert f"pid {node.process.pid}" in result.stderr
    assert not node.group("cpu", "/b").exists()
    result = node.run("run", check=69)
    assert "server.listen" in result.stderr


def test_a_deleted_tree_file_is_away_and_changes_nothing(node):
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    node.tree.unlink()
    eventually(lambda: node.http("/readyz")[0] == 503)
    assert "does not exist" in node.status()["source"]["error"] and node.group("cpu", "/a").is_dir()
    node.write_tree(cpu_tree({"a": 200}))
    eventually(lambda: node.http("/readyz")[0] == 200 and node.shares("/a") == 200)
