"""The matrix of faults as data: what is done to a running cgrove, and what must hold; a file for each area."""

import pathlib
import tomllib

AREAS = ["zookeeper", "document", "kernel", "processes", "redis", "clients", "life", "trust", "state", "peers", "hangs", "text", "floods"]
MATRIX = pathlib.Path(__file__).parent / "matrix"
ROWS = [row for area in AREAS for row in tomllib.loads((MATRIX / f"{area}.toml").read_text()).get("row", [])]
