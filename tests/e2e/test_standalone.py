"""README's first command, with a parent and port of its own."""

import json
import pathlib
import subprocess

import kit
from kit import ROOT, eventually


def test_the_first_command_shows_something(node, parent, tmp_path):
    config = (ROOT / "config/standalone.toml").read_text()
    assert 'parent = "/cgrove-demo"' in config
    run = tmp_path / "run"
    config = config.replace("/cgrove-demo", parent, 2).replace(f"/run{parent}", str(run))
    config = config.replace('parent = "/cgrove-demo"', f'parent = "{parent}"').replace("/run/cgrove-demo", str(run))
    config += f'\n[server]\nlisten = "127.0.0.1:{node.port}"\n'
    node.config.write_text(config)
    (node.directory / "example-tree.json").write_text((ROOT / "config/example-tree.json").read_text())
    node.start()
    sock = node.connect()

    def two_slots():
        sock.send('{"cmd":"show_account","args":{"nr_slot":2}}')
        values = list(json.loads(sock.recv()).values())
        # The first slots may be older than the groups.
        usages = [v["cpu"]["sub_cgroup"]["web"]["sub_cgroup"]["canary"]["value"]["usage"] for v in values]
        return len(usages) == 2 and min(usages) >= 0

    eventually(two_slots)
    demo = eventually(lambda: node.pids("cpu", "/web"))[0]
    assert b"demo-load" in pathlib.Path(f"/proc/{demo}/cmdline").read_bytes()
    banner = node.log.read_text()
    assert f"ws://127.0.0.1:{node.port}/" in banner and "show_account" in banner
    # The demo's process ends with the daemon, however that ends.
    node.process.kill()
    node.process.wait()
    eventually(lambda: not pathlib.Path(f"/proc/{demo}").exists())
