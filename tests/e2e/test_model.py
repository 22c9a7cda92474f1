"""The model that plans are tried on (tests/model) answers as this host's kernel does, call by call."""

import os
import re
import subprocess

import kit

LOCKSTEP = kit.ROOT / "target/release/lockstep"
# As many as shall be; an emulated machine, which takes minutes for that, does fewer unless told otherwise.
ACTIONS = int(os.environ.get("CGROVE_ACTIONS", 10_000 if kit.PATIENCE == 1 else 2_000 if kit.V2 else 500))


# Files of a controller that every kernel has.
LEAST = {"cpu": 3, "cpuset": 12, "memory": 4, "pids": 2, "freezer": 3}


def test_the_model_and_the_kernel_agree(parent):
    """Random actions on both; everything that can be read is compared. Each hierarchy that the model knows is played on."""
    seed = os.environ.get("CGROVE_SEED", "1")
    result = subprocess.run([LOCKSTEP, "--actions", str(ACTIONS), "--seed", seed, "--parent", parent],
                            capture_output=True, text=True, timeout=300 * kit.PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    line = r"^(\S+) \((v[12])\): (\d+) files, (\d+) actions, (\d+) refused alike, (\d+) late, 0 differences$"
    found = re.findall(line, result.stdout, re.M)
    played = {label: actions for label, _, _, actions, _, _ in found}
    for label, version, files, actions, refused, late in found:
        # Enough is taken to mean something, and the kernel is seldom late.
        assert int(refused) < 0.75 * int(actions) and int(late) < 0.02 * int(actions), result.stdout
        assert int(files) >= (7 if version == "v2" else sum(LEAST[c] for c in label.split(",") if c in LEAST)), result.stdout
    known = {"cpu", "cpuset", "memory", "pids", "freezer"}
    v1 = {c for c in known if c in kit.MOUNTS and kit.MOUNTS[c] != kit.UNIFIED}
    assert {c for label in played for c in label.split(",")} & known == v1, result.stdout
    assert ("unified" in played) == (kit.UNIFIED is not None), result.stdout
    assert set(played.values()) == {str(ACTIONS)}, result.stdout
