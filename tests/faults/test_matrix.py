"""One test for each row of matrix/*.toml; afterwards nothing owned is lost, nothing foreign touched, nobody moved."""

import importlib

import pytest

from areas import AREAS, ROWS
from scene import Scene

MODULES = {name: importlib.import_module(f"faults_{name}") for name in AREAS}


def parameters():
    for row in ROWS:
        yield pytest.param(row, id=row["id"], marks=[pytest.mark.slow] if row.get("slow") else [])


@pytest.mark.parametrize("row", parameters())
def test_a_fault(row, tmp_path, record_property):
    area, _ = row["id"].split("/")
    with Scene(tmp_path) as scene:
        getattr(MODULES[area], row["run"])(scene, **row.get("with", {}))
        zeros = scene.zeros()
        record_property("zeros", zeros)
        assert zeros == (0, 0, 0), scene.why


def test_rows_have_names_of_their_own():
    names = [row["id"] for row in ROWS]
    assert len(names) == len(set(names)) and len(names) >= 300


def test_the_page_lists_every_row():
    import pathlib
    import subprocess

    page = pathlib.Path(__file__).resolve().parent / "page"
    if (page.parents[2] / "docs").exists():
        subprocess.run([page, "--check"], check=True)
