"""Certificates for tests of TLS, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ("make_certificates",)


def make_certificates(openssl: str, home: Path) -> None:
    """Make an authority, and certificates of a server and two clients. The authority has not signed the second."""
    # Python 3.13 checks as strictly as RFC 5280.
    (home / "san").write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    may_sign = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=home, check=True, capture_output=True)

    def key(name: str) -> None:
        run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")

    for name in ("ca", "stranger"):
        key(name)
        made = ("-key", f"{name}.key", "-subj", f"/CN={name}", "-days", "2", "-out", f"{name}.pem")
        run("req", "-x509", "-new", *made, *may_sign)
    for name in ("server", "renewed", "client"):
        key(name)
        run("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        run("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    run("pkey", "-in", "server.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    (home / "text.pem").write_text("hello\n")
    (home / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
