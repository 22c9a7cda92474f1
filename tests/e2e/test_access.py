"""Who may ask, and for what; whose documents count."""

import base64
import grp
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import urllib.error
import urllib.request

import pytest
import websocket

import hosts
import kit
from hosts import Certificates
from kit import cpu_tree, eventually, never

pytestmark = kit.once_a_version("debian12-hybrid", "debian13-v2")

USAGE, CONF = "usage-token-0123456789", "conf-token-0123456789"
# What a stranger may learn from an answer.
STRANGERS = {"authentication is needed\n", "forbidden\n", ""}


@pytest.fixture
def other_host():
    with hosts.other_host() as host:
        yield host


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "certificates")


def with_tokens(node, **server):
    """Two tokens, one of them kept as a hash; nobody is trusted for being near."""
    (node.directory / "usage").write_text(f"# a dashboard's\n{USAGE}\n")
    (node.directory / "conf").write_text(f"sha256:{hashlib.sha256(CONF.encode()).hexdigest()}\n")
    node.configure(server={"trust_loopback": False, **server})
    entries = "".join(f'[[server.tokens]]\nname = "{n}"\nroles = ["{n}"]\nfile = "{node.directory / n}"\n' for n in ("usage", "conf"))
    node.config.write_text(node.config.read_text() + entries)
    node.write_tree(cpu_tree({"a": 100}))
    return node


def started(node):
    """Without a look at the port, which lets nobody in."""
    with open(node.log, "ab") as log:
        node.process = subprocess.Popen([kit.CGROVE, "run", "--config", node.config], stdout=log, stderr=log, start_new_session=True)
    eventually(lambda: node.alive() and node.shares("/a") == 100)
    return node


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def asked(node, cmd, headers, scheme="ws", host="127.0.0.1", **options):
    sock = websocket.create_connection(f"{scheme}://{host}:{node.port}/", timeout=10, header=headers, **options)
    try:
        sock.send(json.dumps({"cmd": cmd}))
        return json.loads(sock.recv())
    finally:
        sock.close()


def refused(node, headers, code, **options):
    with pytest.raises(websocket.WebSocketBadStatusException) as error:
        asked(node, "list_groups", headers, **options)
    # After too many of them no more is said.
    assert error.value.status_code in (code, 429)


def test_tokens_open_what_their_roles_say(node):
    started(with_tokens(node))
    assert asked(node, "list_groups", bearer(USAGE))["groups"]
    assert eventually(lambda: asked(node, "show_account", bearer(USAGE)))
    assert "conf" in asked(node, "get_conf", bearer(USAGE))["error"] and "conf" in asked(node, "get_status", bearer(USAGE))["error"]
    assert asked(node, "get_conf", bearer(CONF))["value"] == cpu_tree({"a": 100})
    assert "usage" in asked(node, "show_account", bearer(CONF))["error"]
    basic = {"Authorization": "Basic " + base64.b64encode(f"anybody:{CONF}".encode()).decode()}
    assert asked(node, "get_status", basic)["ready"]
    for headers in ({}, bearer("wrong-token-0123456789"), bearer(""), bearer(hashlib.sha256(CONF.encode()).hexdigest()), {"Authorization": "Basic !"}):
        refused(node, headers, 401)
        for path in ("/", "/metrics", "/readyz", "/healthz", "/nothing"):
            assert node.http(path, headers)[0] in (401, 429), path
    assert node.http("/metrics", bearer(USAGE))[0] == 200 and node.http("/metrics", bearer(CONF))[0] == 403
    # Root has a socket that needs none; others are told what helps.
    assert node.json("status", check=0)["ready"]
    (node.directory / "cgrove.toml").chmod(0o644)
    for up in [node.directory, *node.directory.parents][:-1]:
        up.chmod(up.stat().st_mode | 0o011)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", kit.CGROVE, "--config", node.config, "status"]
    told = subprocess.run(nobody, capture_output=True, text=True)
    assert told.returncode == 69 and "server.listen" in told.stderr, told.stderr
    # Secrets are in no log and no status.
    assert all(secret not in node.log.read_text() + json.dumps(asked(node, "get_status", bearer(CONF))) for secret in (USAGE, CONF))


def test_tokens_change_at_reload_and_bad_ones_change_nothing(node):
    started(with_tokens(node))
    (node.directory / "usage").write_text(f"{USAGE}\nanother-token-0123456789\n")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: asked(node, "list_groups", bearer("another-token-0123456789")))
    assert asked(node, "list_groups", bearer(USAGE))
    (node.directory / "usage").write_text("short\n")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "16 characters" in node.log.read_text())
    assert asked(node, "list_groups", bearer(USAGE))
    node.stop()
    assert '"usage"' in node.run("run", check=78).stderr


def test_a_unix_socket_for_the_group_cgrove(node):
    path = node.directory / "cgrove.sock"
    with_tokens(node, listen=[f"127.0.0.1:{node.port}", str(path)])
    # One that a killed daemon left is taken over.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    started(node)
    mode = os.stat(path)
    has_group = any(g.gr_name == "cgrove" for g in grp.getgrall())
    assert stat.S_IMODE(mode.st_mode) == (0o660 if has_group else 0o600)
    status = eventually(lambda: (lambda status: status["ready"] and status)(node.json("status", check=0)))
    assert str(path) in status["server"]["listen"]

    def over_socket(host="localhost"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return sock.makefile().read()

    assert "ready" in over_socket()
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reloading" in node.log.read_text() and "ready" in over_socket())
    # A second daemon does not take it.
    second = kit.Node(node.directory / "second", node.parent)
    second.configure(server={"listen": str(path)})
    second.write_tree(cpu_tree({"a": 1}))
    assert str(path) in second.run("run", check=69).stderr and "ready" in over_socket()
    node.stop()
    assert not path.exists()


@kit.only_here
def test_other_hosts_need_tls_and_a_token(node, other_host, certificates):
    key, certificate = certificates.sign("node", ["127.0.0.1", other_host.node_address])
    with_tokens(node, listen=f"0.0.0.0:{node.port}", tls_certificate=str(certificate), tls_key=str(key), trust_loopback=True)
    node.start()
    probe = """
import json, ssl, sys, urllib.request, urllib.error
ca, url, token = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
try:
    with urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=ca) if ca else None) as r:
        print(json.dumps([r.status, r.read().decode()]))
except urllib.error.HTTPError as e:
    print(json.dumps([e.code, e.read().decode()]))
"""
    at = f"{other_host.node_address}:{node.port}"
    ask = lambda scheme, path, token: other_host.python(probe, certificates.ca if scheme == "https" else "", f"{scheme}://{at}{path}", token)
    code, text = ask("https", "/metrics", USAGE)
    assert code == 200 and "cgrove_build_info" in text
    for scheme, token, expected in [("https", "", 401), ("https", "wrong-token-0123456789", 401), ("http", "", 403), ("http", USAGE, 403)]:
        code, text = ask(scheme, "/metrics", token)
        assert code == expected and text in STRANGERS, (scheme, token, code, text)
    # The node itself, plain and over TLS.
    assert node.http("/metrics")[0] == 200
    context = {"sslopt": {"ca_certs": str(certificates.ca)}}
    assert asked(node, "get_conf", {}, scheme="wss", **context)["version"] == 0
    # Too many wrong ones get no more words, and a right one gets in all the same.
    flood = """
import http.client, json, sys
codes = {}
for _ in range(200):
    c = http.client.HTTPConnection(sys.argv[1], timeout=10)
    c.request("GET", "/metrics")
    r = c.getresponse()
    codes[r.status] = codes.get(r.status, 0) + 1
    assert r.status == 403 or r.read() == b""
print(json.dumps(codes))
"""
    codes = other_host.python(flood, at)
    assert set(codes) == {"403", "429"} and codes["429"] > 100, codes
    assert ask("https", "/metrics", USAGE)[0] == 200
    lines = [line for line in node.log.read_text().splitlines() if "client refused" in line]
    assert 1 <= len(lines) <= 3, lines


@kit.only_here
def test_legacy_clients_from_named_networks_alone(node, other_host):
    """Plain, read-only, and only from where someone said."""
    node.write_tree(cpu_tree({"a": 100}))
    ask = f"""
import json, sys, urllib.request, urllib.error
try:
    print(json.dumps(urllib.request.urlopen("http://{other_host.node_address}:{node.port}/readyz", timeout=10).status))
except urllib.error.HTTPError as e:
    print(json.dumps(e.code))
"""
    for networks, code in [([f"{other_host.address}/32"], 200), (["192.0.2.0/24"], 403)]:
        node.configure(server={"listen": f"0.0.0.0:{node.port}", "allow_from": networks}).start()
        assert other_host.python(ask) == code
        node.stop()


@kit.only_here
def test_client_certificates(node, certificates, tmp_path):
    key, certificate = certificates.sign("node")
    settings = {"tls_certificate": str(certificate), "tls_key": str(key), "tls_client_ca": str(certificates.ca)}
    started(with_tokens(node, **settings))
    mine = certificates.sign("dashboard", usage="clientAuth")
    strangers = Certificates(tmp_path / "strangers")
    forged = strangers.sign("dashboard", usage="clientAuth")
    trust = {"ca_certs": str(certificates.ca)}
    with_identity = lambda pair: {"sslopt": {**trust, "keyfile": str(pair[0]), "certfile": str(pair[1])}}
    assert asked(node, "list_groups", {}, scheme="wss", **with_identity(mine))["groups"]
    assert "conf" in asked(node, "get_conf", {}, scheme="wss", **with_identity(mine))["error"]
    assert asked(node, "get_conf", bearer(CONF), scheme="wss", **with_identity(mine))["value"]
    refused(node, {}, 401, scheme="wss", sslopt=trust)
    with pytest.raises((ssl.SSLError, OSError, websocket.WebSocketException)):
        asked(node, "list_groups", {}, scheme="wss", **with_identity(forged))
    # Half a handshake holds nobody up.
    with socket.create_connection(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"\x16\x03\x01")
        assert asked(node, "list_groups", bearer(USAGE))["groups"]


@kit.only_here
def test_a_renewed_certificate_is_used_without_a_restart(node, certificates):
    key, certificate = certificates.sign("node")
    node.configure(server={"tls_certificate": str(certificate), "tls_key": str(key)})
    node.write_tree(cpu_tree({"a": 100}))
    node.start()

    def shown():
        context = ssl.create_default_context(cafile=certificates.ca)
        with socket.create_connection(("127.0.0.1", node.port)) as sock, context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
            return "serial=" + tls.getpeercert()["serialNumber"]

    before = shown()
    assert before == certificates.serial(certificate)
    certificates.sign("node")
    eventually(lambda: shown() == certificates.serial(certificate) != before)
    # One that does not fit changes nothing.
    good = shown()
    key.write_text("nothing\n")
    eventually(lambda: shown() and "stay in use" in node.log.read_text())
    assert shown() == good
    node.stop()
    assert "server.tls_key" in node.run("run", check=78).stderr


def test_an_open_address_without_proof_does_not_start(node):
    node.write_tree(cpu_tree({"a": 100}))
    node.configure(server={"listen": f"0.0.0.0:{node.port}"})
    assert "server.tls_certificate" in node.run("run", check=78).stderr


def test_what_root_could_do_beyond_the_task_is_given_up(node):
    needed = {"CAP_DAC_OVERRIDE", "CAP_SYS_NICE", "CAP_SYS_PTRACE"}
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    assert set(node.status()["capabilities"]) == needed
    kernel = (kit.pathlib.Path(f"/proc/{node.process.pid}/status")).read_text()
    fields = dict(line.split(":\t", 1) for line in kernel.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 1 << 1 | 1 << 19 | 1 << 23 and int(fields["CapInh"], 16) == 0
    assert int(fields["CapBnd"], 16) & (1 << 21) == 0 and fields["NoNewPrivs"] == "1"
    node.stop()
    node.config.write_text('keep_capabilities = ["CAP_SYS_ADMIN"]\n' + node.config.read_text())
    node.start()
    assert set(node.status()["capabilities"]) == needed | {"CAP_SYS_ADMIN"}
    node.stop()
    node.config.write_text(node.config.read_text().replace("CAP_SYS_ADMIN", "CAP_EVERYTHING"))
    assert "keep_capabilities" in node.run("run", check=78).stderr


# -- whose documents count ----------------------------------------------------------------------------------------


def keys(directory, name):
    private, public = directory / f"{name}.key", directory / f"{name}.pem"
    hosts.quietly("openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
    hosts.quietly("openssl", "pkey", "-in", private, "-pubout", "-out", public)
    return private, public


@kit.only_here
def test_only_signed_documents_count(node, zookeeper):
    private, public = keys(node.directory, "ops")
    stranger, _ = keys(node.directory, "stranger")
    node.configure(zookeeper=zookeeper, tree={"trusted_keys": [str(public)]})
    file = node.directory / "new.json"
    push = lambda share, *more, check=0: (file.write_text(json.dumps(cpu_tree({"a": share}))), node.run("push", file, *more, check=check))[1]
    push(100, "--sign", private)
    first = zookeeper.client.get(zookeeper.path)[0]
    node.start()
    assert node.shares("/a") == 100
    push(200, "--sign", private)
    eventually(lambda: node.shares("/a") == 200)
    # What nodes would refuse is not written in the first place.
    assert "not signed" in push(300, check=65).stderr
    assert "not in tree.trusted_keys" in push(300, "--sign", stranger, check=65).stderr
    # Whoever may write the znode: unsigned, an older one, a changed one, a stranger's.
    newest = zookeeper.client.get(zookeeper.path)[0]
    attempts = {
        "not signed": json.dumps(cpu_tree({"a": 300})).encode(),
        "before the one in force": first,
        "changed after": newest.replace(b"200", b"300"),
    }
    for why, data in attempts.items():
        zookeeper.set(data)
        eventually(lambda: why in (node.status()["refused"] or {}).get("error", ""))
        assert node.shares("/a") == 200
    zookeeper.set(attempts["not signed"])
    assert "not signed" in node.run("plan", check=65).stderr
    # White space is no change.
    zookeeper.set(json.dumps(json.loads(newest)).encode())
    eventually(lambda: node.status()["refused"] is None)
    # The kept document is looked at as well.
    node.stop()
    zookeeper.client.delete(zookeeper.path)
    kept = node.state / "last-good.json"
    header, body = kept.read_bytes().split(b"\n", 1)
    forged = json.dumps(cpu_tree({"a": 5})).encode()
    digest = hashlib.sha256(forged).hexdigest()[:16]
    kept.write_bytes(json.dumps({**json.loads(header), "digest": digest}).encode() + b"\n" + forged)
    node.start(ready=False)
    assert never(lambda: node.shares("/a") != 200)
    assert "did not sign it" in node.log.read_text()


def test_a_signature_made_with_openssl_and_jq_counts(node, zookeeper):
    """What docs/security.md says about signing elsewhere."""
    private, public = keys(node.directory, "ops")
    document = cpu_tree({"a": 700})
    serial = 5
    signed = b"cgrove document 1\n%d\n" % serial + json.dumps(document, separators=(",", ":")).encode()
    (node.directory / "signed").write_bytes(signed)
    hosts.quietly("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", node.directory / "signed", "-out", node.directory / "value")
    raw = hosts.quietly("openssl", "pkey", "-pubin", "-in", public, "-outform", "DER", "-out", node.directory / "der") and (node.directory / "der").read_bytes()[-32:]
    signature = {"key": hashlib.sha256(raw).hexdigest()[:16], "serial": serial, "value": base64.b64encode((node.directory / "value").read_bytes()).decode()}
    zookeeper.set({**document, "signature": signature})
    node.configure(zookeeper=zookeeper, tree={"trusted_keys": [str(public)]}).start()
    assert node.shares("/a") == 700


class SecureZooKeeper(kit.LocalZooKeeper):
    """TLS with clients' certificates, and SASL."""

    def __init__(self, directory, certificates):
        super().__init__(directory)
        key, certificate = certificates.sign("zookeeper")
        self.clear, self.port = self.port, kit.free_port()
        both = self.directory / "both.pem"
        both.write_text(key.read_text() + certificate.read_text())
        self.config.write_text(
            self.config.read_text() + f"secureClientPort={self.port}\nsecureClientPortAddress=127.0.0.1\n"
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n"
            "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n"
            f"ssl.keyStore.location={both}\nssl.keyStore.type=PEM\nssl.trustStore.location={certificates.ca}\nssl.trustStore.type=PEM\nssl.clientAuth=need\n")
        jaas = self.directory / "jaas"
        jaas.write_text('Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_node="sasl-password"; };\n')
        self.java = [f"-Djava.security.auth.login.config={jaas}"]


@pytest.mark.skipif(kit.ZOOKEEPERS is not None, reason="the servers are on the other side")
def test_zookeeper_over_tls_with_our_certificate_and_sasl(node, certificates, tmp_path):
    import kazoo.client
    import kazoo.security

    with kit.serving(SecureZooKeeper(tmp_path / "secure", certificates)) as server:
        admin = kazoo.client.KazooClient(hosts=f"127.0.0.1:{server.clear}")
        admin.start(30)
        acl = [kazoo.security.make_acl("sasl", "node", read=True, admin=True)]
        admin.create("/cgrove", b"")
        admin.create("/cgrove/arch_conf", json.dumps(cpu_tree({"a": 100})).encode(), acl=acl)
        key, certificate = certificates.sign("node")
        tls = f'tls_ca = "{certificates.ca}"\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
        node.configure(zookeeper=(f"localhost:{server.port}", "/cgrove"))
        plain = node.config.read_text()
        node.config.write_text(plain.replace("[zookeeper]", f"[zookeeper]\n{tls}").replace("digest:user:password", "sasl:node:sasl-password"))
        node.start()
        assert node.shares("/a") == 100
        node.stop()
        # Without our certificate, or by someone whom we do not know, nothing is had; the error says where to look.
        strangers = Certificates(tmp_path / "strangers")
        for wrong in [f'tls_ca = "{certificates.ca}"\n', tls.replace(str(certificates.ca), str(strangers.ca))]:
            node.config.write_text(plain.replace("[zookeeper]", f"[zookeeper]\n{wrong}"))
            node.start(ready=False)
            eventually(lambda: "localhost" in node.status()["source"].get("error", ""), timeout=20)
            assert not node.status()["source"]["connected"]
            node.stop()
        node.config.write_text(plain.replace("[zookeeper]", f"[zookeeper]\n{tls}").replace("digest:user:password", "sasl:node:another-password"))
        node.start(ready=False)
        eventually(lambda: "zookeeper.auth" in node.status()["source"].get("error", ""), timeout=20)
        assert "another-password" not in node.log.read_text() and not node.status()["source"]["connected"]
        node.stop()
        admin.stop()
        admin.close()


@kit.only_here
def test_redis_over_tls_with_our_certificate_and_a_user(node, certificates, tmp_path):
    key, certificate = certificates.sign("redis")
    server = kit.Redis(tmp_path / "redis")
    plain, server.port = server.port, kit.free_port()
    users = server.directory / "users"
    users.write_text("user default off\nuser node on >redis-password ~tls/* +@all\n")
    try:
        server.spawn(["redis-server", "--port", "0", "--tls-port", str(server.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(server.directory),
                      "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificates.ca), "--aclfile", str(users)])
        server.wait_port()
        mine = certificates.sign("node")
        password = node.directory / "password"
        password.write_text("redis-password\n")
        node.write_tree(cpu_tree({"a": 100}))
        tls = {"tls_ca": str(certificates.ca), "tls_certificate": str(mine[1]), "tls_key": str(mine[0])}
        node.configure(redis={"url": f"rediss://node@localhost:{server.port}", "password_file": str(password), "prefix": "tls", **tls})
        node.start()
        eventually(lambda: node.status()["store"]["written_total"] >= 2)
        assert "redis-password" not in node.log.read_text()
        node.stop()
        node.configure(redis={"url": f"rediss://node@localhost:{server.port}", "password_file": str(password), "prefix": "tls", "tls_ca": str(Certificates(tmp_path / "s").ca)})
        node.start()
        eventually(lambda: node.status()["store"].get("error"))
        assert not node.status()["store"]["connected"]
    finally:
        server.stop()


@kit.only_here
def test_a_znode_that_anybody_may_write(node, zookeeper):
    import kazoo.security

    zookeeper.set(cpu_tree({"a": 100}))
    node.configure(zookeeper=zookeeper).start()
    assert "exposed" not in node.status()["source"]
    node.stop()
    zookeeper.client.set_acls(zookeeper.path, kazoo.security.OPEN_ACL_UNSAFE)
    node.start()
    assert "can be written by anybody" in node.status()["source"]["exposed"]
    assert "can be written by anybody" in node.run("status", check=0).stdout
    node.stop()
    node.configure(zookeeper=zookeeper)
    node.config.write_text(node.config.read_text().replace("[zookeeper]", "[zookeeper]\nrequire_safe_acl = true"))
    zookeeper.set(cpu_tree({"a": 900}))
    node.start(ready=False)
    eventually(lambda: "require_safe_acl" in (node.status()["refused"] or {}).get("error", ""))
    assert node.shares("/a") == 100
    # The one above counts as well: who may delete and create there replaces the document.
    only_me = [kazoo.security.make_digest_acl("user", "password", all=True)]
    zookeeper.client.set_acls(zookeeper.path, only_me)
    eventually(lambda: node.shares("/a") == 900, timeout=14)
    zookeeper.client.set_acls(zookeeper.prefix, kazoo.security.OPEN_ACL_UNSAFE)
    zookeeper.set(cpu_tree({"a": 950}))
    eventually(lambda: "delete" in (node.status()["refused"] or {}).get("error", ""))
    assert node.shares("/a") == 900
    zookeeper.client.set_acls(zookeeper.prefix, only_me)


def test_a_reload_reaches_nothing_that_the_start_closed(node):
    """Landlock cannot be widened: another state directory needs a restart, and it is said."""
    node.write_tree(cpu_tree({"a": 100}))
    node.start()
    confined = node.status()["landlock"]
    # The kernels that this is tested on all have it.
    assert confined["enforced"] in ("fully", "partly") and str(node.state) in confined["writable"]
    assert "write only below" in node.run("status", check=0).stdout
    configured = node.config.read_text()
    node.config.write_text(configured.replace(str(node.state), str(node.directory / "elsewhere")))
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "restart it for another tree.state_dir" in node.log.read_text())
    assert node.http("/readyz")[0] == 200 and not (node.directory / "elsewhere").exists()
    node.stop()
    node.start()
    assert (node.directory / "elsewhere").is_dir()


def test_signatures_of_a_file_and_what_commands_say_of_them(node):
    private, public = keys(node.directory, "operator")
    draft = node.directory / "draft.json"

    def signed(share):
        draft.write_text(json.dumps(cpu_tree({"a": share})))
        return node.run("sign", private, draft, check=0).stdout

    first, second = signed(100), signed(200)
    node.configure(tree={"trusted_keys": [str(public)]})
    node.write_tree(first)
    node.start()
    eventually(lambda: node.shares("/a") == 100)
    node.write_tree(second)
    eventually(lambda: node.shares("/a") == 200)
    # An older one at the source: the daemon refuses it, and no command says otherwise.
    node.write_tree(first)
    eventually(lambda: "signed before the one in force" in (node.status()["refused"] or {}).get("error", ""))
    for command in ("plan", "apply"):
        assert "signed before the one in force" in node.run(command, check=65).stderr
    # Of a draft it is said, because it may be signed yet.
    for command in ("check", "plan"):
        result = node.run(command, draft)
        assert result.returncode in (0, 2) and "refuse it: it is not signed" in result.stderr, (command, result)
    assert "not signed" in node.json("check", draft, check=0)["refused"]
    altered = node.directory / "altered.json"
    altered.write_text(second.replace("200", "201"))
    assert "was changed after it was signed" in node.run("check", altered, check=0).stderr
    assert node.shares("/a") == 200
    assert "cgrove sign" in node.run("push", draft, check=64).stderr


def test_new_keys_leave_what_is_in_force(node):
    """Signing is switched on, and keys are changed, by a reload: the tree is kept until a signed document comes."""
    private, public = keys(node.directory, "operator")
    document = cpu_tree({"a": 100, "b": 50})
    node.write_tree(document)
    node.start()
    eventually(lambda: node.shares("/b") == 50)
    node.configure(tree={"trusted_keys": [str(public)]})
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "stays until a signed one comes" in node.log.read_text())
    eventually(lambda: "not signed" in (node.status()["refused"] or {}).get("error", ""))
    assert node.status()["document"]["groups"] == 2
    node.set_shares("/b", 9)
    eventually(lambda: node.shares("/b") == 50, timeout=5)
    assert node.http("/readyz")[0] == 200
    assert "none is in force" not in node.log.read_text()
    # A start is another thing: whoever could write the disk could have put it there.
    node.stop()
    node.start(ready=False)
    eventually(lambda: "none is in force" in node.log.read_text())
    assert node.status()["document"] is None and node.shares("/b") == 50
    draft = node.directory / "draft.json"
    draft.write_text(json.dumps(cpu_tree({"a": 300, "b": 50})))
    node.write_tree(node.run("sign", private, draft, check=0).stdout)
    eventually(lambda: node.shares("/a") == 300)
