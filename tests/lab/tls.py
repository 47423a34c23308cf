"""A certificate authority for a test, and what it signs. Made by openssl, valid for two days, trusted by nobody else."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_DAYS = "2"
# P-256: a key takes milliseconds, and every client here speaks it.
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path

    def joined(self) -> Path:
        """One file with both, as HAProxy wants it."""
        path = self.certificate.with_suffix(".joined.pem")
        path.write_text(self.certificate.read_text() + self.key.read_text())
        return path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class Authority:
    """An authority in a folder, which must exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = Pair(folder / "ca.pem", folder / "ca.key")
        ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        subject = ("-subj", "/CN=regtrace lab authority")
        _openssl("req", "-x509", *_KEY, "-days", _DAYS, *subject, *ca, "-keyout", self.pair.key, "-out", self.pair.certificate)

    @property
    def certificate(self) -> Path:
        """What clients are given."""
        return self.pair.certificate

    def sign(self, name: str, hosts: Sequence[str] = ("127.0.0.1", "::1", "localhost")) -> Pair:
        """Make a server's certificate for these addresses and names; files are called after `name`."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        # Go looks at subjectAltName only, and there an address is not a name.
        names = ",".join(f"IP:{host}" if _is_address(host) else f"DNS:{host}" for host in hosts)
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        by = ("-CA", self.pair.certificate, "-CAkey", self.pair.key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *by, "-days", _DAYS, "-extfile", extensions, "-out", pair.certificate)
        return pair


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
