"""What is said loudly: kernel tests that cannot run here, tests of the other cgroup version, the matrix of knobs."""

import os

import pytest

import kit
from fixtures import *  # noqa: F403 - every test may use them
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
        terminalreporter.write_line(f"{len(elsewhere)} tests do not apply to this host ({version}):")
        for report in elsewhere:
            terminalreporter.write_line(f"  {report.nodeid}: {report.longrepr[-1]}")
    cells(terminalreporter)
    if why:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"!!! THE KERNEL TESTS DID NOT RUN: {why}", red=True, bold=True)
