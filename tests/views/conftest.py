"""What people look at: the live page in a real Chromium, `cgrove top` in a pseudo-terminal, metrics in a real Prometheus."""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import kit  # noqa: E402
from fixtures import *  # noqa: E402, F403 - every test may use them

REQUIRED = ["cpu", "memory", "pids"]


def pytest_configure(config):
    missing = kit.why_no_kernel_tests(REQUIRED)
    if missing and os.environ.get("CI") == "true":
        pytest.exit(f"CI must test the views, but: {missing}", returncode=1)


def pytest_collection_modifyitems(config, items):
    why = kit.why_no_kernel_tests(REQUIRED)
    for item in items if why else []:
        item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter):
    why = kit.why_no_kernel_tests(REQUIRED)
    if why:
        terminalreporter.write_line(f"!!! THE VIEWS WERE NOT TESTED: {why}", red=True, bold=True)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, text in getattr(report, "user_properties", []):
                terminalreporter.write_line(f"{key}: {text}")
