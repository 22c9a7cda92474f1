"""Tests that need a machine to themselves: the service under real systemd, the package, every knob."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))

from conftest_e2e import *  # noqa: E402,F401,F403
