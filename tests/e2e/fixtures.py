"""Real servers, a real daemon and a parent of its own for each test; what a test makes is removed even when it fails."""

import itertools
import os
import subprocess

import pytest

import kit

COUNTER = itertools.count()


def pytest_unconfigure(config):
    """Workers that were killed could not remove what they had made."""
    if not hasattr(config, "workerinput"):
        kit.sweep()


@pytest.fixture
def parent():
    """A cgroup parent for this test alone."""
    name = f"/cgrove-test-{os.getpid()}-{next(COUNTER)}"
    yield name
    kit.remove_cgroups(name)


@pytest.fixture(scope="session")
def shared_zookeeper(tmp_path_factory):
    with kit.serving(kit.ZooKeeper(tmp_path_factory.mktemp("zookeeper"))) as server:
        yield server


@pytest.fixture
def zookeeper(shared_zookeeper):
    """A client on the shared server, with a prefix for this test alone, readable and writable by user/password only."""
    client = shared_zookeeper.client()
    prefix = f"/test-{os.getpid()}-{next(COUNTER)}"
    tree = kit.Znode(client, shared_zookeeper, prefix)
    yield tree
    client.delete(prefix, recursive=True)
    client.stop()
    client.close()


@pytest.fixture
def own_zookeeper(tmp_path):
    """A server that the test may kill."""
    with kit.serving(kit.ZooKeeper(tmp_path / "zookeeper")) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path):
    with kit.serving(kit.Redis(tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def node(tmp_path, parent):
    """A node to be configured and run; everything it started ends with the test."""
    with kit.node_of(tmp_path, parent) as node:
        yield node


@pytest.fixture
def processes():
    """Starts processes that end with the test."""
    started = []

    def start(*command, **options):
        process = subprocess.Popen(command, start_new_session=True, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        kit.kill_group(process)
