"""Other hosts, made of network namespaces, and certificates, made with openssl."""

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys

import kit

COUNTER = itertools.count()


def quietly(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options)


class OtherHost:
    """A network namespace behind a router that can lose every packet without a word."""

    def __init__(self):
        number = next(COUNTER)
        self.tag = f"cg{os.getpid() % 100000}x{number}"
        self.router, self.far = f"{self.tag}r", f"{self.tag}f"
        # Two small networks of its own: node - router, router - far.
        a = 16 + (os.getpid() * 7 + number * 3) % 200
        b = (os.getpid() // 200 + number) % 250
        self.node_address, self.gateway = f"10.{a}.{b}.1", f"10.{a}.{b}.2"
        self.far_gateway, self.address = f"10.{a}.{b}.5", f"10.{a}.{b}.6"

    def start(self):
        ip = lambda *words: quietly("ip", *words)
        inside = lambda space, *words: quietly("ip", "-n", space, *words)
        for space in (self.router, self.far):
            ip("netns", "add", space)
            inside(space, "link", "set", "lo", "up")
        ip("link", "add", f"{self.tag}a", "type", "veth", "peer", "name", "near", "netns", self.router)
        inside(self.router, "link", "add", "away", "type", "veth", "peer", "name", "eth0", "netns", self.far)
        for space, device, address in [(None, f"{self.tag}a", self.node_address), (self.router, "near", self.gateway),
                                       (self.router, "away", self.far_gateway), (self.far, "eth0", self.address)]:
            at = ["-n", space] if space else []
            quietly("ip", *at, "address", "add", f"{address}/30", "dev", device)
            quietly("ip", *at, "link", "set", device, "up")
        quietly("ip", "netns", "exec", self.router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        ip("route", "add", f"{self.address}/32", "via", self.gateway)
        inside(self.far, "route", "add", "default", "via", self.far_gateway)
        return self

    def lose_packets(self):
        for address in (self.node_address, self.address):
            quietly("ip", "-n", self.router, "route", "add", "blackhole", f"{address}/32")

    def heal(self):
        for address in (self.node_address, self.address):
            quietly("ip", "-n", self.router, "route", "del", "blackhole", f"{address}/32")

    def command(self, *words):
        """What runs there."""
        # `ip netns exec` would hide /sys/fs/cgroup under a /sys of its own.
        return ["nsenter", f"--net=/run/netns/{self.far}", *map(str, words)]

    def python(self, code, *arguments):
        """A small program over there; what it prints as JSON."""
        result = subprocess.run(self.command(sys.executable, "-c", code, *arguments), capture_output=True, text=True, timeout=60 * kit.PATIENCE)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def stop(self):
        for command in (["ip", "link", "del", f"{self.tag}a"], ["ip", "netns", "del", self.far], ["ip", "netns", "del", self.router]):
            subprocess.run(command, capture_output=True)


class Certificates:
    """An authority, and what it signs."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.ca_key = self.directory / "ca.crt", self.directory / "ca.key"
        quietly("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2,
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", "/CN=test authority", "-keyout", self.ca_key, "-out", self.ca)

    def sign(self, name, addresses=("127.0.0.1",), usage="serverAuth,clientAuth"):
        """A key and a certificate for these addresses."""
        key, request, certificate = (self.directory / f"{name}.{end}" for end in ("key", "csr", "crt"))
        names = ",".join([*(f"IP:{a}" for a in addresses), "DNS:localhost"])
        extensions = self.directory / f"{name}.ext"
        # As strict as Python 3.13 is.
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\nbasicConstraints=critical,CA:FALSE\n"
                              "keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        quietly("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                "-keyout", key, "-out", request)
        new = certificate.with_suffix(".new")
        quietly("openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", 2,
                "-extfile", extensions, "-out", new)
        new.rename(certificate)
        return key, certificate

    def serial(self, certificate):
        return quietly("openssl", "x509", "-in", certificate, "-noout", "-serial").stdout.strip()


@contextlib.contextmanager
def other_host():
    host = OtherHost()
    try:
        yield host.start()
    finally:
        host.stop()
