"""The matrix of faults: its rows become tests, its last line says how many were survived."""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import kit  # noqa: E402
from areas import ROWS  # noqa: E402
from fixtures import pytest_unconfigure  # noqa: E402, F401 - a hook

REQUIRED = ["cpu", "memory", "pids"]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also what takes minutes")


def pytest_configure(config):
    missing = kit.why_no_kernel_tests(REQUIRED)
    if missing and os.environ.get("CI") == "true":
        pytest.exit(f"CI must run the faults, but: {missing}", returncode=1)
    config.addinivalue_line("markers", "slow: takes minutes")


def pytest_collection_modifyitems(config, items):
    why = kit.why_no_kernel_tests(REQUIRED)
    for item in items:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
        elif item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: ./tests/run faults --slow"))


def row_of(report):
    return report.nodeid.split("[", 1)[1][:-1] if "test_a_fault[" in report.nodeid else None


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    survived = {row_of(r) for r in stats.get("passed", []) if r.when == "call" and row_of(r)}
    failed = {row_of(r) for kind in ("failed", "error") for r in stats.get(kind, []) if row_of(r)}
    for report in stats.get("skipped", []):
        if row_of(report):
            terminalreporter.write_line(f"not executed: {row_of(report)}: {report.longrepr[-1]}")
    for row in ROWS:
        if row["id"] in failed:
            terminalreporter.write_line(f"NOT SURVIVED: {row['id']}: {row['done']}; must hold: {row['holds']}")
    zeros = [dict(r.user_properties).get("zeros") for r in stats.get("passed", []) if r.when == "call" and row_of(r)]
    lost, touched, moved = (sum(z[i] for z in zeros if z) for i in range(3))
    terminalreporter.write_line(f"owned groups lost {lost}, foreign groups touched {touched}, wrong processes moved {moved}")
    terminalreporter.write_line(f"survived {len(survived - failed)} of {len(ROWS)}")
