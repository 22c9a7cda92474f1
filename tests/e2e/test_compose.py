"""docker-compose.yml: valid, and brought up where a Docker engine runs."""

import shutil
import subprocess
import time
import tomllib
import warnings

import pytest

from kit import ROOT, eventually

FILE = ROOT / "docker-compose.yml"


def docker(*arguments, **options):
    return subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, **options)


def works(*arguments):
    return shutil.which("docker") and docker(*arguments).returncode == 0


def test_the_file_is_valid():
    import yaml

    services = yaml.safe_load(FILE.read_text())["services"]
    assert set(services) == {"zookeeper", "redis", "cgrove"}
    node = services["cgrove"]
    # What it takes to see the host's cgroups and processes from a container.
    assert node["cgroup"] == "host" and node["pid"] == "host" and node["network_mode"] == "host"
    assert "/sys/fs/cgroup:/sys/fs/cgroup:rw" in node["volumes"]
    assert (ROOT / node["build"]["dockerfile"]).is_file()
    for name, value in node["environment"].items():
        assert name.startswith("CGROVE_"), name
    if works("compose", "version"):
        result = docker("compose", "-f", str(FILE), "config", "-q")
        assert result.returncode == 0, result.stderr


def test_the_image_gets_every_member_of_the_workspace():
    """Cargo refuses a workspace of which a member is missing, whichever one is built."""
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    copied = [line.split()[1] for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if line.startswith("COPY ") and "--from" not in line]
    ignored = (ROOT / ".dockerignore").read_text().split()
    for member in members:
        assert any(member == place or member.startswith(place + "/") for place in copied), member
        top = member.split("/")[0]
        assert not {top, f"{top}/*"} & set(ignored) or f"!{member}" in ignored, member


def test_it_comes_up():
    if not works("info"):
        warnings.warn("!!! docker-compose.yml WAS NOT BROUGHT UP: no Docker engine answers here; only its syntax was checked")
        return
    try:
        up = docker("compose", "up", "--build", "--detach", "--wait", timeout=1800)
        assert up.returncode == 0, up.stderr
        eventually(lambda: docker("compose", "exec", "cgrove", "cgrove", "status").returncode == 0, timeout=60)
    finally:
        docker("compose", "down", "--volumes", timeout=300)
