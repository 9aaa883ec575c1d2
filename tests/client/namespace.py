"""A network of its own for the suite: loopback alone, a name server that logs, Anthropic's hosts at 127.0.0.1.

``enter`` replaces the process by the given command inside new network and mount namespaces (unshare(1)): as root, or
with a user namespace where the kernel lets people make one. ``prepare`` does the rest from inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

#: set inside; its value is the folder with what was mounted
MARK = "OCD_TEST_CLIENT_BOX"
#: what the recorder stands in for: the hosts of Anthropic's that Claude Code talks to
HOSTS = (
    "api.anthropic.com",
    "console.anthropic.com",
    "platform.claude.com",
    "claude.ai",
    "api.claude.ai",
    "mcp-proxy.anthropic.com",
)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def way() -> list[str] | str:
    """The beginning of the command that makes the namespaces, or the reason why there can be none."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("unshare") is None:
        return "there is no unshare here (util-linux)"
    why = ""
    for options in (["-n", "-m"], ["-r", "-n", "-m"]):
        done = subprocess.run(["unshare", *options, "true"], capture_output=True, text=True)
        if done.returncode == 0:
            return ["unshare", *options, "--"]
        why = done.stderr.strip()
    return f"no network namespace can be made here: {why}"


def enter(start: list[str], command: list[str]) -> NoReturn:
    """Become ``command`` inside. ``start`` is what ``way`` returned."""
    os.environ[MARK] = "entering"
    os.execvp(start[0], [*start, *command])


def prepare() -> Path:
    """From inside: bring loopback up, mount hosts and resolv.conf. Returns the folder that holds them."""
    _loopback_up()
    folder = Path(tempfile.mkdtemp(prefix="occ-ns-", dir="/tmp"))
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"127.0.0.1 {host}" for host in HOSTS)]
    for name, text in (
        ("hosts", "\n".join(lines) + "\n"),
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
    ):
        (folder / name).write_text(text)
        target = os.path.realpath(f"/etc/{name}")
        subprocess.run(["mount", "--bind", str(folder / name), target], check=True)
    # Background sessions of Claude Code have their sockets here, whatever TMPDIR says: one of our own, so that nothing
    # of it stays and nobody's real ones are met.
    sockets = Path(f"/tmp/cc-daemon-{os.getuid()}")
    if not sockets.exists():
        sockets.mkdir(mode=0o700)
        (folder / "made").write_text(str(sockets))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(sockets)], check=True)
    os.environ[MARK] = str(folder)
    return folder


def leave(folder: Path) -> None:
    """Take away what ``prepare`` made; the mounts go with the namespace."""
    with contextlib.suppress(OSError):
        sockets = (folder / "made").read_text()
        subprocess.run(["umount", "-l", sockets], check=False, capture_output=True)
        os.rmdir(sockets)
    shutil.rmtree(folder, ignore_errors=True)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = struct.unpack("16sh", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


def alone() -> bool:
    """Whether this process sees loopback and nothing else."""
    return {name for _number, name in socket.if_nameindex()} == {"lo"}


class Names:
    """A name server on 127.0.0.1:53 that knows no name and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, name="name server", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(IndexError, UnicodeDecodeError):
                try:
                    data, address = self._socket.recvfrom(2048)
                except OSError:
                    return
                question, labels, at = data[12:], [], 0
                while question[at]:
                    labels.append(question[at + 1 : at + 1 + question[at]].decode())
                    at += question[at] + 1
                self.asked.append(".".join(labels))
                # NXDOMAIN, the question repeated (RFC 1035, 4.1).
                head = data[:2] + b"\x81\x83" + data[4:6] + bytes(6)
                self._socket.sendto(head + question[: at + 5], address)

    def close(self) -> None:
        self._socket.close()


_MAKE = r"""
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
folder, *hosts = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc)
def make(name, issuer, signer, key, *extensions):
    b = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    b = b.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    b = b.not_valid_after(now + datetime.timedelta(days=30))
    for one in extensions:
        b = b.add_extension(one, critical=isinstance(one, x509.BasicConstraints))
    return b.sign(signer, hashes.SHA256())
def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
pem = serialization.Encoding.PEM
ca, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
root = make(name("ocd test CA"), name("ocd test CA"), ca, ca, x509.BasicConstraints(True, None))
leaf = make(name(hosts[0]), name("ocd test CA"), ca, key, x509.BasicConstraints(False, None),
            x509.SubjectAlternativeName([x509.DNSName(one) for one in hosts]))
private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
open(folder + "/ca.pem", "wb").write(root.public_bytes(pem))
open(folder + "/server.pem", "wb").write(leaf.public_bytes(pem) + private)
"""


def certificates(folder: Path, python: str) -> tuple[Path, Path]:
    """A CA and one certificate for ``HOSTS``: (the CA's file, the server's file with its key).

    ``python``: an interpreter that has ``cryptography`` (LiteLLM's has).
    """
    subprocess.run([python, "-I", "-c", _MAKE, str(folder), *HOSTS], check=True, cwd="/")
    return folder / "ca.pem", folder / "server.pem"
