"""The command line, as a person or a script uses it."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import kit
from kit import CGROVE, README_TREE, ROOT, cpu_tree, eventually


def cgrove(*arguments, **options):
    return subprocess.run([CGROVE, *arguments], capture_output=True, text=True, timeout=30, **options)


def test_check_names_line_path_and_mend(tmp_path):
    tree = tmp_path / "tree.json"
    tree.write_text('{"groups": {\n  "a": {"knobs": {"cpu.wieght": 5}}\n}}')
    result = cgrove("check", tree)
    assert result.returncode == 65
    assert f"{tree}: line 2: $.groups.a.knobs[\"cpu.wieght\"]" in result.stderr and "did you mean cpu.weight?" in result.stderr
    report = json.loads(cgrove("--output", "json", "check", tree).stdout)
    assert report["line"] == 2 and not report["ok"]
    good = cgrove("check", ROOT / "config/example-tree.json")
    assert good.returncode == 0 and "3 groups" in good.stdout
    assert cgrove("check", "-", input='{"cpu": {"sub_cgroup": {"a": {"x": 1}}}}').stderr.startswith("warning: $.cpu.sub_cgroup.a.x")
    assert cgrove("check", tmp_path / "none.json").returncode == 66


def test_the_configuration_is_read_once_and_check_says_when_it_cannot_be(node, tmp_path):
    node.write_tree(README_TREE)
    node.configure()
    said = cgrove("--config", node.config, "plan", env={**os.environ, "CGROVE_NOD": "a"}).stderr
    assert said.count("CGROVE_NOD sets nothing") == 1, said
    broken = tmp_path / "broken.toml"
    broken.write_text("[tree]\nsource = 3\n")
    result = cgrove("--config", broken, "check", ROOT / "config/example-tree.json")
    assert result.returncode == 0 and f"{broken}:2: tree.source" in result.stderr


def test_exit_codes(node, tmp_path):
    assert cgrove("frobnicate").returncode == 64
    assert cgrove("plan", "--bogus").returncode == 64
    assert cgrove("--help").returncode == 0 and cgrove("--version").returncode == 0
    assert cgrove("run", "--config", tmp_path / "none.toml").returncode == 78
    node.configure(tree={"pth": 1})
    result = node.run("run", check=78)
    assert "unknown setting `tree.pth`; did you mean `tree.path`?" in result.stderr
    node.configure()
    node.write_tree("{")
    assert node.run("plan").returncode == 65
    assert node.run("status").returncode == 69
    assert node.run("usage").returncode == 69
    node.configure(zookeeper=("127.0.0.1:1", "/x"))
    result = node.run("plan", check=69)
    assert "127.0.0.1:1" in result.stderr and "refused" in result.stderr


def test_without_permission_it_says_so(node):
    """As nobody, from a directory that nobody can read."""
    node.write_tree(cpu_tree({"a": 5}))
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        for source in (CGROVE, node.config, node.tree):
            shutil.copy(source, directory)
        config = pathlib.Path(directory, "cgrove.toml")
        config.write_text(config.read_text().replace(str(node.directory), directory))
        for command in ("run", "apply"):
            binary = pathlib.Path(directory, "cgrove")
            result = subprocess.run([binary, command, "--config", config], capture_output=True, text=True, user=65534, group=65534, timeout=30)
            assert result.returncode == 77, result.stderr
            assert "cannot write cgroups" in result.stderr and "root" in result.stderr


def test_plan_and_apply(node):
    mine, other = ("memory.swappiness", "memory.high") if kit.V1 else ("memory.high", "memory.swappiness")
    value = {"memory.swappiness": 7, "memory.high": "1G"}
    node.write_tree({"groups": {"web": {"knobs": {"cpu.shares": 8192, "memory.max": "512M", mine: value[mine], other: value[other]}}}})
    plan = node.run("plan", check=2)
    assert "+ /web" in plan.stdout and ("cpu.shares                   8192" if kit.V1 else "800  (cpu.shares)") in plan.stdout
    assert f"{other}: not expressible here" in plan.stdout
    assert not node.group("cpu").exists()
    report = node.json("plan", check=2)
    assert {"create", "write"} <= {a["op"] for a in report["actions"]} and len(report["digest"]) == 16
    applied = node.json("apply", check=0)
    assert not [a for a in applied["actions"] if a["result"]["outcome"] != "done"]
    assert node.json("plan", check=0)["actions"] == []
    # Drift, then adoption of what someone else made.
    node.set_shares("/web", 5)
    assert ("5 → 8192" if kit.V1 else "5 → 800") in node.run("plan", check=2).stdout


def test_plan_works_without_a_configuration():
    result = cgrove("plan", ROOT / "config/arch_conf.json", "--output", "json", env={"PATH": os.environ["PATH"]})
    assert result.returncode in (0, 2), result.stderr
    assert json.loads(result.stdout)["document"]


def test_an_existing_group_is_adopted(node):
    for controller in ("cpu", "cpuacct"):
        node.make(controller, "/a")
    node.write_tree(cpu_tree({"a": 99}))
    assert ("adopted in cpu" if kit.V1 else "adopted in unified") in node.run("plan", check=2).stdout
    node.run("apply", check=0)
    assert kit.mark(node.group("cpu", "/a"))["instance"] == "cgrove"
    assert node.run("plan", check=0)


def test_cgexec_with_libcgroups_own(node, zookeeper):
    zookeeper.set(README_TREE)
    node.configure(zookeeper=zookeeper)
    before = node.run("cgexec", "b1", check=0)
    assert "does not exist" in before.stderr and not node.group("cpu").exists()
    node.run("cgexec", "b1", "--create", check=0)
    assert node.shares("/b/b1") == 200
    assert not node.group("cpu", "/a").exists()
    node.run("apply", check=0)
    arguments = node.run("cgexec", "b1", check=0).stdout.strip()
    apart = kit.MOUNTS["cpu"] != kit.MOUNTS["cpuacct"]
    cpu = "cpu,cpuacct" if apart else "cpu"
    assert arguments == f"-g {cpu}:{node.parent}/b/b1"
    blkio = "" if kit.V2 else f" -g blkio:{node.parent}/a"
    assert node.json("cgexec", "b1", "a") == {"b1": arguments, "a": f"-g {cpu}:{node.parent}/a{blkio}"}
    for name in ("b1", "a"):
        words = node.run("cgexec", name, check=0).stdout.split()
        inside = subprocess.run(["cgexec", *words, "cat", "/proc/self/cgroup"], capture_output=True, text=True)
        assert inside.returncode == 0, inside.stderr
        path = {"b1": "/b/b1", "a": "/a"}[name]
        assert kit.inside(inside.stdout, "cpu") == kit.inside(inside.stdout, "cpuacct") == f"{node.parent}{path}"
    result = node.run("cgexec", "b11", check=64)
    assert "did you mean b1?" in result.stderr


def test_an_ambiguous_name_lists_its_paths(node):
    node.write_tree(cpu_tree({"x": (5, {"same": 5}), "y": (5, {"same": 5})}))
    node.run("apply", check=0)
    result = node.run("cgexec", "same", check=64)
    assert "/x/same, /y/same" in result.stderr
    assert node.run("cgexec", "/x/same", check=0).stdout.count("-g") == 1
    assert node.run("cgexec", "--all", "same", check=0).stdout.count("-g") == 2


def test_exec_joins_every_hierarchy(node):
    node.write_tree({"groups": {"a": {"groups": {"b": {}}}}, "controllers": ["cpu", "memory", "pids"]})
    node.run("apply", check=0)
    result = node.run("exec", "b", "--", "cat", "/proc/self/cgroup", check=0)
    for controller in ("cpu", "cpuacct", "memory", "pids"):
        assert kit.inside(result.stdout, controller) == f"{node.parent}/a/b"
    assert node.run("exec", "b", "--", "sh", "-c", "exit 7").returncode == 7
    assert node.run("exec", "b", "--", "/nonexistent").returncode == 127
    assert node.run("exec", "b", "--", "/etc/passwd").returncode == 126
    assert node.run("exec", "nobody", "--", "true").returncode == 125


def test_push_validates_shows_and_writes(node, zookeeper):
    node.configure(zookeeper=zookeeper)
    node.write_tree(cpu_tree({"a": 1}))
    assert node.run("push", node.tree).returncode == 65
    node.write_tree(README_TREE)
    result = node.run("push", node.tree, check=0)
    assert "+ /b/b1" in result.stdout and "version 0" in result.stdout
    assert json.loads(zookeeper.client.get(zookeeper.path)[0]) == README_TREE
    # Nobody else may write what was pushed under a digest.
    acls, _ = zookeeper.client.get_acls(zookeeper.path)
    assert [a.id.scheme for a in acls] == ["digest"]
    node.configure()
    assert node.run("push", node.tree).returncode == 64


def test_tree_status_and_usage(node):
    node.write_tree(cpu_tree({"a": 500, "b": (100, {"b1": 200})}))
    node.start()
    eventually(lambda: node.status()["usage"]["slots_total"] >= 2)
    tree = node.run("tree", check=0).stdout
    first, second = ("cpu.shares 500", "cpu.shares 200") if kit.V1 else ("cpu.weight 49", "cpu.weight 20")
    assert f"├─ a   {first}" in tree and f"   └─ b1   {second}" in tree and "_tasks" not in tree
    assert {g["path"] for g in node.json("tree")["groups"]} == {"/a", "/b", "/b/b1"}
    status = node.run("status", check=0).stdout
    assert "ready" in status and "3 groups" in status
    assert node.json("status")["plan"]["failures"] == []
    usage = node.run("usage", "--slots", "2", "--group", "/b", check=0).stdout
    assert "/b/b1" in usage and "/a" not in usage
    assert len(node.json("usage", "--slots", "2")) == 2
    follow = subprocess.Popen([CGROVE, "--config", node.config, "usage", "--follow"], stdout=subprocess.PIPE, text=True)
    try:
        headings = [line for line in (follow.stdout.readline() for _ in range(10)) if line.startswith("slot")]
        assert len(headings) >= 2
    finally:
        follow.kill()
        follow.wait()


def test_convert_between_forms(tmp_path):
    legacy = ROOT / "config/arch_conf.json"
    result = cgrove("convert", legacy)
    assert result.returncode == 0 and "note: " in result.stderr
    converted = json.loads(result.stdout)
    assert converted["groups"]["b"]["groups"]["b1"]["knobs"] == {"cpu.shares": 200}
    back = cgrove("convert", "-", input=result.stdout)
    assert json.loads(back.stdout)["cpu"]["sub_cgroup"]["b"]["conf"] == {"share": 100}
    same = cgrove("convert", legacy, "--to", "by-controller")
    assert json.loads(same.stdout) == README_TREE


def test_schema_completions_and_man(tmp_path):
    schema = json.loads(cgrove("schema").stdout)
    assert "cpu.weight" in schema["$defs"]["group"]["properties"]["knobs"]["properties"]
    for shell in ("bash", "zsh", "fish"):
        assert "cgexec" in cgrove("completions", shell).stdout
    assert ".TH cgrove 1" in cgrove("man").stdout
    assert cgrove("man", tmp_path / "man").returncode == 0
    assert (tmp_path / "man/cgrove-plan.1").exists()


def test_options_before_or_after_the_command_and_from_the_environment(node):
    node.write_tree(cpu_tree({"a": 5}))
    after = subprocess.run([CGROVE, "plan", "--config", node.config, "--output", "json"], capture_output=True, text=True)
    before = subprocess.run([CGROVE, "--output", "json", "--config", node.config, "plan"], capture_output=True, text=True)
    environment = subprocess.run([CGROVE, "plan"], capture_output=True, text=True, env={**os.environ, "CGROVE_CONFIG": str(node.config), "CGROVE_OUTPUT": "json"})
    assert json.loads(after.stdout) == json.loads(before.stdout) == json.loads(environment.stdout)
    result = node.run("plan", env={"CGROVE_CGROUP_PARENT": "relative"}, check=78)
    assert "cgroup.parent" in result.stderr


CGCONFIG = """
mount { cpu = /cgroup/cpu; }
group daemons {
    perm { task { uid = root; gid = root; } admin { uid = root; gid = root; } }
    cpu { cpu.shares = "500"; }
    memory { memory.limit_in_bytes = 64M; }
}
group daemons/http { cpu { cpu.shares = 2000; } }
"""


def test_import_from_libcgroup(node, tmp_path, processes):
    """What libcgroup's own parser makes of the file, cgrove makes too."""
    conf, rules = tmp_path / "cgconfig.conf", tmp_path / "cgrules.conf"
    conf.write_text(CGCONFIG)
    rules.write_text("nobody:/usr/bin/sleep cpu,memory daemons/http\n@staff cpu daemons\n")
    result = cgrove("import", "--from", "libcgroup", conf, rules)
    assert result.returncode == 0, result.stderr
    for said in ["permissions of daemons", "mount block", "@staff"]:
        assert said in result.stderr, result.stderr
    document = json.loads(result.stdout)
    http = document["groups"]["daemons"]["groups"]["http"]
    assert http["processes"] == [{"user": "nobody", "exe": "/usr/bin/sleep"}]
    node.write_tree(result.stdout)
    node.run("apply", check=0)
    assert node.shares("/daemons") == 500 and node.shares("/daemons/http") == 2000
    conf.write_text("group x {\n cpu {\n  cpu.shares 5\n } }")
    result = cgrove("import", "--from", "libcgroup", conf)
    assert result.returncode == 65 and f"{conf}: line 3" in result.stderr
    assert cgrove("import", "--from", "libcgroup").returncode == 64
    assert cgrove("import", "--from", "libcgroup", tmp_path / "none").returncode == 66


def test_import_from_the_host(node):
    tree = {"controllers": ["cpu", "memory", "pids"], "groups": {
        "a": {"knobs": {"cpu.shares": 2048, "memory.max": "64M", "pids.max": 77}, "groups": {"b": {"knobs": {"cpu.max": "50000 100000"}}}}, "c": {}}}
    node.write_tree(tree)
    node.run("apply", check=0)
    result = node.run("import", "--from", "host", check=0)
    found = json.loads(result.stdout)
    names = {"memory.max": "memory.limit_in_bytes", "cpu.shares": "cpu.shares"} if kit.V1 else {"memory.max": "memory.max", "cpu.shares": "cpu.weight"}
    assert set(found["groups"]["a"]["knobs"]) == {names["cpu.shares"], names["memory.max"], "pids.max"}
    # Only what is not as in a new group; and what was imported says the same as what was written.
    assert "knobs" not in found["groups"]["c"] and "_tasks" not in result.stdout
    node.write_tree(found)
    # On v2 every controller that is measured is named, and handed down.
    assert [a for a in node.json("plan")["actions"] if a["op"] != "forget" and a.get("file") != "cgroup.subtree_control"] == []
    everywhere = cgrove("import", "--from", "host", "--everywhere", "--config", node.config)
    assert node.parent.strip("/") in json.loads(everywhere.stdout)["groups"]
