"""The package and the service under real systemd. The tests stand in the order of a node's life and build on each other."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
import urllib.request

import pytest

import kit
from kit import cpu_tree, eventually, place

CONFIG = pathlib.Path("/etc/cgrove/cgrove.toml")
TREE = pathlib.Path("/etc/cgrove/tree.json")
REPORT = pathlib.Path("/tmp/cgrove-report")
PARENT = "/cgrove" if kit.V2 else ""
PORT = 43409


def run(*command, check=True, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert not check or result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def show(*properties, unit="cgrove"):
    out = run("systemctl", "show", unit, *(f"-p{p}" for p in properties))
    values = dict(line.split("=", 1) for line in out.splitlines())
    return values[properties[0]] if len(properties) == 1 else values


def http(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as reply:
        return reply.read().decode()


def status():
    return json.loads(run("cgrove", "status", "--output", "json"))


def ready():
    return "ready" in http("/readyz")


def shares(path):
    return kit.Shares(pathlib.Path(f"{kit.MOUNTS['cpu']}{PARENT}{path}"))


def main_pid():
    return int(show("MainPID"))


def write_tree(document):
    new = TREE.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.rename(TREE)


def package():
    return str(next(pathlib.Path(__file__).resolve().parents[3].glob("cgrove_*.deb")))


@pytest.fixture(scope="module", autouse=True)
def sleeper():
    """A process in a group, which has to stay there whatever happens to the service."""
    process = subprocess.Popen(["sleep", "100000"], start_new_session=True)
    yield process
    process.kill()


def test_installed_it_waits_to_be_configured(sleeper):
    REPORT.mkdir(exist_ok=True)
    run("dpkg", "-i", package(), env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    assert "cgrove" in run("getent", "group", "cgrove")
    assert show("ActiveState") == "inactive" and show("UnitFileState") == "disabled"
    assert run("stat", "-c", "%a %U:%G", str(CONFIG)).strip() == "640 root:cgrove"
    assert run("cgrove", "--version").startswith("cgrove ")
    for path in ["/usr/lib/sysusers.d/cgrove.conf", "/usr/share/bash-completion/completions/cgrove", "/etc/cgrove/credentials"]:
        assert pathlib.Path(path).exists(), path
    # Not configured, it says what is missing and is not started over and over.
    run("systemctl", "start", "cgrove", check=False)
    eventually(lambda: show("ActiveState") == "failed")
    assert show("ExecMainStatus") == "78" and int(show("NRestarts")) == 0
    assert "zookeeper.hosts" in run("journalctl", "-u", "cgrove", "--no-pager")
    run("systemctl", "reset-failed", "cgrove")


def test_it_starts_and_is_ready_although_its_source_is_away(sleeper):
    pathlib.Path("/run/sleeper.pid").write_text(f"{sleeper.pid}\n")
    CONFIG.write_text('[tree]\nsource = "zookeeper"\n[zookeeper]\nhosts = "127.0.0.1:1"\n')
    run("systemctl", "start", "cgrove")
    assert show("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    eventually(lambda: "zookeeper away" in show("StatusText"))
    assert http("/healthz") == "ok\n"
    run("systemctl", "stop", "cgrove")
    assert show("Result") == "success"


def test_it_makes_the_tree_and_says_so(sleeper):
    CONFIG.write_text(f'[tree]\nsource = "file"\npath = "{TREE}"\n[tasks]\ninterval = "1s"\n[tasks.pid_files]\nkeep = "/run/sleeper.pid"\n')
    write_tree(cpu_tree({"keep": 500, "b": (100, {"b1": 200})}))
    run("systemctl", "enable", "--now", "cgrove")
    times = show("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    took = (int(times["ActiveEnterTimestampMonotonic"]) - int(times["InactiveExitTimestampMonotonic"])) / 1000
    (REPORT / "ready").write_text(f"start to READY: {took:.0f} ms\n")
    eventually(ready)
    assert shares("/keep") == 500 and shares("/b/b1") == 200
    eventually(lambda: place(sleeper.pid) == f"{PARENT}/keep")
    eventually(lambda: "3 groups" in show("StatusText"))
    # Programs in a group may look up their limits there.
    assert pathlib.Path(f"{kit.MOUNTS['cpu']}{PARENT}/keep").stat().st_mode & 0o777 == 0o755
    if kit.V2:
        # Every controller is handed down by our own parent, so that systemd cannot take it away.
        have = set(pathlib.Path("/sys/fs/cgroup/cgrove/cgroup.subtree_control").read_text().split())
        assert have == set(pathlib.Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())


def test_the_journal_has_fields():
    write_tree({"groups": {"keep": {"knobs": {"cpu.shares": 500}}, "b": {"groups": {"b1": {}}},
                           "bad": {"knobs": {"cpuset.cpus": "0-4095"}}}})
    eventually(lambda: status()["plan"]["failures"])
    entries = [json.loads(line) for line in run("journalctl", "-u", "cgrove", "-o", "json", "--no-pager").splitlines()]
    failed = [e for e in entries if e.get("KNOB") == "cpuset.cpus" and e.get("ERRNO")]
    assert failed and failed[-1]["GROUP"] == "/bad" and failed[-1]["ERRNO"] in ("22", "34") and failed[-1]["PRIORITY"] == "4"
    assert failed[-1]["DOCUMENT_VERSION"] == "1" and failed[-1]["SYSLOG_IDENTIFIER"] == "cgrove"
    eventually(lambda: "1 actions failed" in show("StatusText"))
    write_tree(cpu_tree({"keep": 500, "b": (100, {"b1": 200})}))
    eventually(lambda: not status()["plan"]["failures"])


def test_reload():
    pid = main_pid()
    CONFIG.write_text(CONFIG.read_text() + '[usage]\nkeep = "2m"\n')
    run("systemctl", "reload", "cgrove")
    eventually(lambda: show("SubState") == "running" and ready())
    assert main_pid() == pid
    good = CONFIG.read_text()
    CONFIG.write_text(good + "nonsense = 1\n")
    run("systemctl", "reload", "cgrove")
    eventually(lambda: "the configuration stays as it was" in run("journalctl", "-u", "cgrove", "--no-pager"))
    eventually(lambda: show("SubState") == "running")
    assert main_pid() == pid and ready()
    CONFIG.write_text(good)


@pytest.mark.parametrize("how", ["stop", "kill", "restart", "daemon-reload", "daemon-reexec"])
def test_groups_and_processes_outlive_the_service(sleeper, how):
    group = pathlib.Path(f"{kit.MOUNTS['cpu']}{PARENT}/b/b1")
    inode = group.stat().st_ino
    if how == "kill":
        old = main_pid()
        os.kill(old, signal.SIGKILL)
        eventually(lambda: main_pid() not in (0, old) and show("SubState") == "running")
    elif how.startswith("daemon"):
        run("systemctl", how)
    else:
        run("systemctl", how, "cgrove")
    assert group.stat().st_ino == inode and shares("/keep") == 500
    assert sleeper.poll() is None and place(sleeper.pid) == f"{PARENT}/keep"
    if how == "stop":
        assert show("Result") == "success"
        run("systemctl", "start", "cgrove")
    eventually(ready)


def test_the_watchdog_ends_a_daemon_that_hangs(sleeper):
    drop_in = pathlib.Path("/run/systemd/system/cgrove.service.d/watchdog.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=6\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "cgrove")
    # Fed, it lives longer than that.
    old = main_pid()
    time.sleep(10)
    assert main_pid() == old
    os.kill(old, signal.SIGSTOP)
    eventually(lambda: main_pid() not in (0, old) and show("SubState") == "running", timeout=30)
    assert "watchdog" in run("journalctl", "-u", "cgrove", "--no-pager").lower()
    eventually(ready)
    assert place(sleeper.pid) == f"{PARENT}/keep"
    drop_in.unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "cgrove")
    eventually(ready)


def disk():
    """A whole disk by its path, which the hardened unit has to resolve."""
    return "/dev/" + next(d.name for d in pathlib.Path("/sys/block").glob("nvme*"))


def unit(name, *settings, command="/bin/sleep 1000"):
    path = pathlib.Path(f"/run/systemd/system/{name}.service")
    path.write_text("\n".join(["[Service]", f"ExecStart={command}", *settings]) + "\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", name)


def test_other_units_do_not_take_controllers_away(sleeper):
    """systemd rewrites the root's subtree_control when units with limits come and go."""
    TREE.write_text(json.dumps({"groups": {"keep": {"knobs": {"cpu.shares": 500, "memory.max": "64M", "io.weight": 77, "pids.max": 50, "cpuset.cpus": "0",
                                                              "io.max": {disk(): {"rbps": "1G"}}}},
                                           "b": {"groups": {"b1": {"knobs": {"cpu.shares": 200}}}}}}))
    limit = ("memory", "memory.max") if kit.V2 else ("memory", "memory.limit_in_bytes")
    read = lambda: pathlib.Path(f"{kit.MOUNTS[limit[0]]}{PARENT}/keep/{limit[1]}").read_text().strip()
    rates = pathlib.Path(f"{kit.MOUNTS['blkio']}{PARENT}/keep/{'io.max' if kit.V2 else 'blkio.throttle.read_bps_device'}")
    eventually(lambda: str(1 << 30) in rates.read_text())
    eventually(lambda: read() == str(64 << 20) and shares("/keep") == 500)
    for i in range(3):
        unit("limited", "CPUWeight=50", "IOWeight=50", "AllowedCPUs=0", "MemoryMax=50M", "TasksMax=20")
        run("systemctl", "daemon-reload")
        run("systemctl", "set-property", "--runtime", "limited.service", f"CPUWeight={60 + i}")
        run("systemctl", "stop", "limited")
        assert read() == str(64 << 20) and shares("/keep") == 500
        assert pathlib.Path(f"{kit.MOUNTS['cpuset']}{PARENT}/keep/cpuset.cpus").read_text().strip() == "0"
    if kit.V2:
        done = status()["plan"]["done_total"]
        time.sleep(3)
        assert status()["plan"]["done_total"] == done, "there was nothing to repair"
    # On v1 systemd moves processes back, and removes groups that are empty, when units come and go with limits: drift.
    eventually(lambda: place(sleeper.pid) == f"{PARENT}/keep" and shares("/b/b1") == 200)


def test_a_process_that_leaves_a_unit_is_a_warning(sleeper):
    unit("family", command="/bin/sh -c 'sleep 1000 & echo $! > /run/family-child.pid; exec sleep 1000'")
    child = int(eventually(lambda: pathlib.Path("/run/family-child.pid").read_text().strip()))
    main = int(show("MainPID", unit="family"))
    pathlib.Path("/run/family-main.pid").write_text(str(main))
    CONFIG.write_text(CONFIG.read_text().replace('keep = "/run/sleeper.pid"', 'keep = ["/run/sleeper.pid", "/run/family-child.pid"]\nb1 = "/run/family-main.pid"'))
    shown = run("cgrove", "plan", check=False)
    run("systemctl", "reload", "cgrove")
    eventually(lambda: place(child) == f"{PARENT}/keep" and place(main) == f"{PARENT}/b/b1")
    if kit.V2:
        assert "family.service: pid" in shown and "systemctl stop" in shown, shown
        warned = eventually(lambda: status()["tasks"]["left_units"])
        assert any(f"pid {child} moved to /keep" in line for line in warned), warned
        assert "family.service" in run("cgrove", "status")
    # What the warning says is true: the main process is reached, the other one only where systemd tracks elsewhere.
    run("systemctl", "stop", "family")
    assert not pathlib.Path(f"/proc/{main}").exists()
    assert pathlib.Path(f"/proc/{child}").exists() == kit.V2
    if kit.V2:
        os.kill(child, signal.SIGKILL)


def test_units_are_named_by_rules():
    """Their main process, wherever it is; asked of systemd."""
    configured = CONFIG.read_text()
    unit("ruled-1")
    main = int(show("MainPID", unit="ruled-1"))
    CONFIG.write_text(configured + '[[tasks.rules]]\ngroup = "keep"\nunit = "ruled-*.service"\n')
    run("systemctl", "reload", "cgrove")
    eventually(lambda: place(main) == f"{PARENT}/keep")
    assert 'tasks.rules[0] (unit "ruled-*.service") matches it' in run("cgrove", "why", str(main))
    # A restarted unit has another main process.
    run("systemctl", "restart", "ruled-1")
    again = int(show("MainPID", unit="ruled-1"))
    eventually(lambda: again != main and place(again) == f"{PARENT}/keep")
    run("systemctl", "stop", "ruled-1")
    assert not pathlib.Path(f"/proc/{again}").exists()
    CONFIG.write_text(configured)
    run("systemctl", "reload", "cgrove")


def test_what_its_own_mounts_hide_is_found_all_the_same():
    """PrivateTmp= and ProtectHome= keep the service out of /tmp and /home, not away from what the configuration names there."""
    configured = CONFIG.read_text()
    program = pathlib.Path("/home/hidden-program")
    shutil.copy(shutil.which("sleep"), program)
    program.chmod(0o755)
    started = [subprocess.Popen([str(p), "1000"], start_new_session=True) for p in ("/bin/sleep", program, "/bin/sleep")]
    files = [pathlib.Path("/tmp/hidden-1.pid"), pathlib.Path("/home/hidden-2.pid")]
    try:
        for file, process in zip(files, started[::2]):
            file.write_text(str(process.pid))
        inside = pathlib.Path("/proc", str(main_pid()), "root")
        assert not any((inside / str(file).lstrip("/")).exists() for file in [*files, program])
        CONFIG.write_text(configured.replace('interval = "1s"', 'interval = "1h"').replace('keep = ["/run/sleeper.pid"', f'keep = ["/tmp/hidden-*.pid", "{files[1]}", "/run/sleeper.pid"')
                          + f'[[tasks.rules]]\ngroup = "b1"\nexe = "{program}"\n')
        run("systemctl", "reload", "cgrove")

        def placed():
            assert [place(p.pid) for p in started] == [f"{PARENT}/keep", f"{PARENT}/b/b1", f"{PARENT}/keep"], status()["tasks"]
            return True

        eventually(placed)
        # A pid file that appears there is noticed at once.
        time.sleep(3)
        started.append(subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True))
        files.append(pathlib.Path("/tmp/hidden-3.pid"))
        files[-1].write_text(str(started[-1].pid))
        eventually(lambda: place(started[-1].pid) == f"{PARENT}/keep")
    finally:
        for process in started:
            process.kill()
            process.wait()
        for file in [*files, program]:
            file.unlink(missing_ok=True)
    CONFIG.write_text(configured)
    run("systemctl", "reload", "cgrove")


def test_process_events_and_device_rules_with_the_drop_ins_of_the_docs():
    """docs/service.md gives the capabilities that the unit does not have by itself."""
    configured = CONFIG.read_text()
    drop_in = pathlib.Path("/run/systemd/system/cgrove.service.d/more.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text("[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN CAP_NET_ADMIN\nRestrictAddressFamilies=AF_NETLINK\n")
    run("systemctl", "daemon-reload")
    CONFIG.write_text('keep_capabilities = ["CAP_SYS_ADMIN"]\n' + configured.replace('interval = "1s"', 'interval = "1h"\nproc_events = true')
                      + '[[tasks.rules]]\ngroup = "keep"\ncmdline = "sleep 31415"\n')
    knobs = {"cpu.shares": 500} if kit.V2 else {"cpu.shares": 500, "devices.deny": ["c 1:9 w"]}
    write_tree({"groups": {"keep": {"knobs": knobs}, "b": {"groups": {"b1": {"knobs": {"cpu.shares": 200}}}}}})
    run("systemctl", "restart", "cgrove")
    eventually(ready)
    eventually(lambda: not status()["plan"]["failures"])
    time.sleep(5)
    process = subprocess.Popen(["sleep", "31415"], start_new_session=True)
    try:
        eventually(lambda: place(process.pid) == f"{PARENT}/keep")
        if kit.V1:
            # Denied to whoever is in the group.
            eventually(lambda: subprocess.run(["sh", "-c", "echo $$ > /sys/fs/cgroup/devices/keep/cgroup.procs; echo x > /dev/urandom"]).returncode != 0)
    finally:
        process.kill()
        process.wait()
    assert "tasks.proc_events:" not in run("journalctl", "-u", "cgrove", "--no-pager")
    CONFIG.write_text(configured)
    drop_in.unlink()
    run("systemctl", "daemon-reload")
    write_tree(cpu_tree({"keep": 500, "b": (100, {"b1": 200})}))
    run("systemctl", "restart", "cgrove")
    eventually(ready)


def test_systemd_may_open_the_port():
    run("systemctl", "stop", "cgrove")
    run("systemctl", "start", "cgrove.socket")
    assert show("ActiveState") == "inactive"
    # The first client starts the service, and is answered.
    assert http("/healthz") == "ok\n"
    assert show("ActiveState") == "active"
    eventually(lambda: status()["server"]["listen"] == [f"127.0.0.1:{PORT}"])
    run("systemctl", "restart", "cgrove")
    assert http("/healthz") == "ok\n"
    run("systemctl", "stop", "cgrove.socket", "cgrove")
    run("systemctl", "start", "cgrove")
    assert http("/healthz") == "ok\n"


def test_credentials_come_from_systemd():
    server = subprocess.Popen(["redis-server", "--port", "6399", "--bind", "127.0.0.1", "--save", "", "--requirepass", "geheim"], stdout=subprocess.DEVNULL)
    try:
        secret = pathlib.Path("/etc/cgrove/credentials/redis")
        secret.write_text("geheim\n")
        secret.chmod(0o600)
        CONFIG.write_text(CONFIG.read_text() + '[redis]\nurl = "redis://127.0.0.1:6399"\npassword_file = "$CREDENTIALS_DIRECTORY/cgrove_redis"\n')
        run("systemctl", "restart", "cgrove")
        eventually(lambda: status()["store"]["connected"])
        eventually(lambda: int(run("redis-cli", "-p", "6399", "-a", "geheim", "dbsize").strip()) >= 2)
        log = run("journalctl", "-u", "cgrove", "--no-pager") + pathlib.Path(f"/proc/{main_pid()}/environ").read_text()
        assert "geheim" not in log
    finally:
        server.kill()


def test_the_unix_socket_is_the_groups_and_nothing_is_kept_that_is_not_needed():
    configured = CONFIG.read_text()
    socket = pathlib.Path("/run/cgrove/cgrove.sock")
    CONFIG.write_text(configured + f'[server]\nlisten = ["127.0.0.1:{PORT}", "{socket}"]\n')
    run("systemctl", "restart", "cgrove")
    eventually(ready)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660 and socket.group() == "cgrove"
    asked = ["setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs"]
    member = json.loads(run(*asked, f"--regid={socket.stat().st_gid}", "cgrove", "status", "--output", "json"))
    assert str(socket) in member["server"]["listen"]
    assert set(member["capabilities"]) == {"CAP_DAC_OVERRIDE", "CAP_SYS_NICE", "CAP_SYS_PTRACE"}
    reach = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    assert subprocess.run([*asked, "--regid=65534", "python3", "-c", reach, str(socket)], capture_output=True).returncode != 0
    CONFIG.write_text(configured)
    run("systemctl", "restart", "cgrove")
    eventually(ready)
    assert not socket.exists()


def test_hardening():
    text = run("systemd-analyze", "security", "--no-pager", "cgrove.service", check=False)
    (REPORT / "security").write_text(text)
    exposure = float(re.search(r"exposure level for cgrove.service: ([0-9.]+)", text).group(1))
    assert exposure <= 2.3, text
    assert status()["landlock"]["enforced"] in ("fully", "partly")
    assert {"/var/lib/cgrove", "/run/cgrove"} <= set(status()["landlock"]["writable"])
    pid = main_pid()
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff"):
            # sys_nice, sys_ptrace, dac_override and nothing else.
            assert int(line.split()[1], 16) == 1 << 23 | 1 << 19 | 1 << 1
        if line.startswith("NoNewPrivs"):
            assert line.split()[1] == "1"


def test_an_upgrade_disturbs_nothing(sleeper):
    old = main_pid()
    work = pathlib.Path("/tmp/repack")
    run("dpkg-deb", "-R", package(), str(work))
    control = work / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 0.1.1-1", control.read_text()))
    run("dpkg-deb", "-Znone", "-b", str(work), "/tmp/new.deb")
    configured = CONFIG.read_text()
    group = pathlib.Path(f"{kit.MOUNTS['cpu']}{PARENT}/keep")
    inode = group.stat().st_ino
    run("dpkg", "-i", "/tmp/new.deb", env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    assert main_pid() not in (0, old) and show("ActiveState") == "active"
    assert CONFIG.read_text() == configured and show("UnitFileState") == "enabled"
    assert group.stat().st_ino == inode and place(sleeper.pid) == f"{PARENT}/keep"
    eventually(ready)


def test_removed_and_purged_it_leaves_the_groups(sleeper):
    group = pathlib.Path(f"{kit.MOUNTS['cpu']}{PARENT}/keep")
    inode = group.stat().st_ino
    run("dpkg", "-r", "cgrove")
    assert show("ActiveState") == "inactive" and not pathlib.Path("/usr/bin/cgrove").exists()
    assert CONFIG.exists() and pathlib.Path("/var/lib/cgrove").is_dir()
    run("dpkg", "-P", "cgrove")
    assert not CONFIG.exists() and not pathlib.Path("/var/lib/cgrove").exists()
    assert not pathlib.Path("/etc/systemd/system/multi-user.target.wants/cgrove.service").exists()
    assert sleeper.poll() is None
    # On v1 systemd itself takes processes out of groups that are not its own, and nobody is there to put them back.
    assert kit.V1 or group.stat().st_ino == inode and place(sleeper.pid) == f"{PARENT}/keep"
