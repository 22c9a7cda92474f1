"""Real servers, a real daemon and a parent of its own for each test; what a test makes is removed even when it fails."""

import itertools
import os
import subprocess

import pytest

import kit

COUNTER = itertools.count()
REQUIRED = ["cpu", "cpuacct", "memory", "blkio", "pids", "cpuset", "freezer"]


def pytest_configure(config):
    missing = kit.why_no_kernel_tests(REQUIRED)
    if missing and os.environ.get("CI") == "true":
        pytest.exit(f"CI must run the kernel tests, but: {missing}", returncode=1)
    if missing:
        config.stash[NOT_RUN] = missing


NOT_RUN = pytest.StashKey[str]()


def pytest_collection_modifyitems(config, items):
    why = config.stash.get(NOT_RUN, None)
    if why:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


def cells(reporter):
    """The matrix of knobs on this host's kernel."""
    found = []
    for outcome in ("passed", "failed"):
        for report in reporter.stats.get(outcome, []):
            text = dict(report.user_properties).get("cell", "FAILED" if outcome == "failed" else "")
            if report.when == "call" and "test_a_knob[" in report.nodeid:
                found.append((report.nodeid.split("[")[1][:-1], text))
    if found:
        host = os.environ.get("CGROVE_TEST_HOST", "host")
        reporter.write_line("")
        reporter.write_line(f"Knobs on {host} (kernel {os.uname().release}): {len(found)} cells executed, "
                            f"{sum(t.startswith('written') for _, t in found)} written, read back and restored")
        for knob, text in sorted(found):
            reporter.write_line(f"  {knob:<36} {text}")


def pytest_terminal_summary(terminalreporter, config):
    why = config.stash.get(NOT_RUN, None)
    elsewhere = terminalreporter.stats.get("skipped", [])
    if elsewhere and not why:
        version = "cgroup v2" if kit.V2 else "cgroup v1 or hybrid"
        terminalreporter.write_line(f"{len(elsewhere)} tests are of the other cgroup version than this host's ({version}):")
        for report in elsewhere:
            terminalreporter.write_line(f"  {report.nodeid}: {report.longrepr[-1]}")
    cells(terminalreporter)
    if why:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"!!! THE KERNEL TESTS DID NOT RUN: {why}", red=True, bold=True)


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
    node = kit.Node(tmp_path / "node", parent)
    yield node
    node.clean()


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
