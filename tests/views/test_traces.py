"""Traces of reconciles, as a collector gets them. They need a build with the feature `otlp`."""

import http.server
import json
import threading

import kit
import pytest
from kit import ROOT, eventually

TRACING = ROOT / "target/debug/cgrove"


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps every span, with its resource's attributes."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/traces"
        for resource in body["resourceSpans"]:
            about = attributes(resource["resource"])
            self.server.spans += [{**span, "about": about} for scope in resource["scopeSpans"] for span in scope["spans"]]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def attributes(what):
    return {a["key"]: next(iter(a["value"].values())) for a in what.get("attributes", [])}


@pytest.fixture
def collector():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.spans = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def traced(collector, monkeypatch):
    monkeypatch.setattr(kit, "CGROVE", TRACING)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    return collector


TREE = {"groups": {"a": {"knobs": {"cpu.weight": 50}}, "b": {"knobs": {"cpuset.cpus": "1022"}}}}


def test_a_reconcile_is_a_trace(traced, node):
    node.write_tree(TREE)
    node.configure().start()
    whole = eventually(lambda: [s for s in traced.spans if s["name"] == "reconcile"])[0]
    steps = eventually(lambda: [s for s in traced.spans if s.get("parentSpanId") == whole["spanId"]])
    assert {s["name"] for s in steps} == {"observe", "plan", "apply", "place processes", "remove"}
    assert {s["traceId"] for s in steps} == {whole["traceId"]} and not whole.get("parentSpanId")
    assert all(int(whole["startTimeUnixNano"]) <= int(s["startTimeUnixNano"]) <= int(s["endTimeUnixNano"]) <= int(whole["endTimeUnixNano"]) for s in steps)
    about, told = whole["about"], attributes(whole)
    assert (about["service.name"], about["host.name"]) == ("cgrove", "node-1")
    assert told["digest"] == node.status()["document"]["digest"] and int(told["groups"]) == 2 and int(told["actions"]) > 2
    # What the kernel refused is told in the trace, and no span in the log.
    assert int(told["failed"]) == 1 and "cpuset.cpus" in json.dumps(whole["events"])
    log = node.log.read_text()
    assert "traces of reconciles are sent" in log and "place processes" not in log


def test_one_reconcile_by_hand_is_sent_before_it_ends(traced, node):
    node.write_tree(TREE)
    node.configure().run("apply", check=69)
    assert "reconcile" in {s["name"] for s in traced.spans}


def test_a_collector_that_is_away_disturbs_nothing(traced, node):
    traced.shutdown()
    traced.server_close()
    node.write_tree({"groups": {"a": {}}})
    node.configure().start()
    assert node.group("cpu", "/a").is_dir() and node.stop() == 0


def test_a_build_without_it_says_so(node):
    node.write_tree({"groups": {}})
    told = node.configure().run("apply", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, check=0).stderr
    assert "built without the feature otlp" in told
