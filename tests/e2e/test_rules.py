"""Processes matched by rules: user, program, command line, ancestor; in order, after pid files, except what is ignored."""

import os
import shutil
import time

import kit
from kit import eventually, never, place


def sleepers(processes, tmp_path):
    """Distinct programs, so that tests beside each other do not see one another's."""
    program = tmp_path / "worker"
    shutil.copy("/bin/sleep", program)
    os.chmod(tmp_path, 0o755)
    return str(program), lambda *more, **options: processes(str(program), "600", *more, **options)


def reachable(path):
    """pytest's directories are root's alone; another user has to get at the program."""
    for directory in [path, *path.parents]:
        if directory.stat().st_uid == 0 and str(directory).startswith("/tmp/"):
            os.chmod(directory, directory.stat().st_mode | 0o055)


def where(node, process):
    return place(process.pid).removeprefix(node.parent)


def test_rules_of_a_document(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    reachable(tmp_path)
    plain, foreign = start(), start(user=65534)
    backup = start("0.125")
    parent = processes("/bin/sh", "-c", f"{program} 600 0.25 & wait")
    node.pid_file("parent.pid", parent.pid)
    node.write_tree({
        "ignore": [{"cmdline": f"{program} 600 0.125"}],
        "groups": {
            "below": {"processes": [{"ancestor_pid_file": str(node.directory / "parent.pid"), "exe": program}]},
            "nobody": {"processes": [{"user": "nobody", "exe": "*/worker"}, {"user": 4294967294, "exe": program}]},
            "rest": {"processes": [{"exe": program}]},
        },
    })
    before = place(backup.pid)
    node.start()
    eventually(lambda: where(node, plain) == "/rest" and where(node, foreign) == "/nobody")
    eventually(lambda: node.status()["tasks"]["groups"] == {"/below": 1, "/nobody": 1, "/rest": 1})
    # Its parent is named by a pid file that only the rule reads: it stays.
    assert not place(parent.pid).startswith(node.parent)
    assert place(backup.pid) == before


def test_rules_of_the_node_come_first_and_pid_files_before_them(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    first, named, ignored = start(), start("0.5"), start("0.75")
    node.write_tree({"groups": {"a": {}, "b": {}, "c": {"processes": [{"exe": program}]}}})
    text = "\n".join([
        "[[tasks.rules]]", "ignore = true", 'cmdline = "*0.75"', f'exe = "{program}"',
        "[[tasks.rules]]", 'group = "a"', f'exe = "{program}"',
        "[[tasks.rules]]", 'group = "b"', f'exe = "{program}"',
        "[[tasks.rules]]", 'group = "of-another-cluster"', 'user = "root"',
    ])
    node.configure(pid_files={"b": node.pid_file("named.pid", named.pid)})
    node.config.write_text(node.config.read_text() + text + "\n")
    node.start()
    eventually(lambda: where(node, first) == "/a" and where(node, named) == "/b")
    assert never(lambda: place(ignored.pid).startswith(node.parent))
    why = node.json("why", first.pid, named.pid, ignored.pid, 1, 2)
    assert [w["group"] for w in why] == ["/a", "/b", None, None, None]
    assert why[0]["why"] == f'tasks.rules[1] (exe "{program}") matches it' and why[0]["state"] == "it is in place"
    assert "named.pid names it" in why[1]["why"] and "tasks.rules[0]" in why[2]["why"] and "ignores it" in why[2]["why"]
    assert "pid 1" in why[3]["why"] and "kernel thread" in why[4]["why"]
    shown = node.run("why", first.pid, check=0).stdout
    assert shown.startswith(f"{first.pid} worker: /a; tasks.rules[1]") and f"{node.parent}/a" in shown


def test_why_says_that_a_group_is_not_there(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    sleeper = start()
    node.write_tree({"groups": {"a": {"processes": [{"exe": program}]}}})
    told = node.json("why", sleeper.pid)[0]
    assert told["group"] == "/a" and "not there yet" in told["state"]


def test_children_follow_and_containers_stay(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    family = processes("/bin/sh", "-c", f": {program}; sleep 600 & wait")
    contained = start()
    for controller in ("cpu", "cpuacct"):
        node.make(controller, "/safe/container")
    node.put(contained.pid, "/safe/container")
    node.write_tree({"controllers": ["cpu"], "groups": {"a": {"processes": [{"cmdline": f"*: {program};*"}, {"exe": program}]}}})
    node.configure(cgroup={"protected": ["safe"]}).start()
    eventually(lambda: where(node, family) == "/a")
    eventually(lambda: len(node.pids("cpu", "/a")) == 2)
    assert where(node, contained) == "/safe/container"
    assert any(f"pid {contained.pid}" in line for line in node.status()["tasks"]["left_alone"])
    assert node.json("why", contained.pid)[0]["state"] == "it is left alone"


def test_process_events_place_new_processes_at_once(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    node.write_tree({"groups": {"a": {"processes": [{"exe": program}]}}})
    node.configure(tasks={"interval": "1h", "proc_events": True}).start()
    eventually(lambda: node.status()["plan"]["rounds"] >= 2)
    time.sleep(1.5)
    took = []
    for _ in range(5):
        began = time.monotonic()
        sleeper = start()
        eventually(lambda: where(node, sleeper) == "/a", timeout=2, pause=0.002)
        took.append(time.monotonic() - began)
        time.sleep(0.2)
    assert sorted(took)[2] < 0.1 * kit.PATIENCE, took
    # Other programs are none of its business.
    at = node.status()["tasks"]["at"]
    time.sleep(1.2)
    processes("sleep", "600")
    assert never(lambda: node.status()["tasks"]["at"] != at, during=1)


def test_what_a_rule_refers_to_and_is_not_there_is_said(node, processes):
    node.write_tree({"groups": {"a": {"processes": [{"user": "no-such-user"}, {"ancestor_pid_file": "/nonexistent/x.pid"}]}}})
    node.start()
    problems = eventually(lambda: node.status()["tasks"]["problems"])
    assert any("no-such-user" in p for p in problems) and any("/nonexistent/x.pid" in p for p in problems)


def test_wrong_rules_are_refused(node):
    node.write_tree({"groups": {"a": {"processes": [{"program": "x"}]}}})
    assert "$.groups.a.processes.0" in node.run("check", check=65).stderr
    for rule, said in [('group = "a"', "one or more of"), ('exe = "/x"', "either group"), ('group = "a"\nignore = true\nexe = "/x"', "either group"),
                       ('group = "a"\nexe = "x"', "absolute path")]:
        node.configure()
        node.config.write_text(node.config.read_text() + f"[[tasks.rules]]\n{rule}\n")
        assert said in node.run("plan", check=78).stderr


def test_a_process_with_mounts_of_its_own_does_not_pass_for_another_program(node, processes, tmp_path):
    program, start = sleepers(processes, tmp_path)
    honest = start()
    other = tmp_path / "other"
    shutil.copy("/bin/sleep", other)
    forger = processes("unshare", "--mount", "sh", "-c", f"mount --bind {other} {program} && exec {program} 600")
    # It shows the same path.
    eventually(lambda: os.readlink(f"/proc/{forger.pid}/exe") == program)
    node.write_tree({"groups": {"a": {"processes": [{"exe": program}]}}})
    node.start()
    eventually(lambda: where(node, honest) == "/a")
    assert never(lambda: place(forger.pid).startswith(node.parent))
