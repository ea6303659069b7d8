"""TLS from files, in either direction: what is wrong with them is said at the start, by name."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from resilience.errors import ConfigurationError, Problem, one_line

__all__ = ("channel_credentials", "server_credentials")

_log = logging.getLogger("resilience.grpc")
_CERTIFICATE, _KEY = "-----BEGIN CERTIFICATE-----", "PRIVATE KEY-----"


def channel_credentials(
    ca: str | os.PathLike[str] | None = None,
    *,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Return what `grpc.secure_channel` takes, in either stack, from PEM files.

    `ca` signs the servers (without it, the authorities gRPC brings along); `certificate` and `key` are for servers who
    want to know who calls (mutual TLS). Files are read once: a `LazyChannel` made anew reads them again.
    Raises one `ConfigurationError` that lists every file that is missing, unreadable or not what it should be.
    """
    files = _Files(ca, certificate, key)
    files.check(needs_certificate=False)
    roots, chain, private = files.read()
    return grpc.ssl_channel_credentials(roots, private, chain)


def server_credentials(
    certificate: str | os.PathLike[str], key: str | os.PathLike[str], *, ca: str | os.PathLike[str] | None = None
) -> grpc.ServerCredentials:
    """Return what `server.add_secure_port` takes, in either stack, from PEM files.

    With `ca`, only clients with a certificate it has signed are served (mutual TLS). Files that change are read again
    at the next handshake; where they are wrong then, the old ones stay, and the log says why.
    Raises one `ConfigurationError` that lists every file that is missing, unreadable or not what it should be.
    """
    files = _Files(ca, certificate, key)
    files.check(needs_certificate=True)
    return grpc.dynamic_ssl_server_credentials(
        files.for_server(), files.if_changed, require_client_authentication=ca is not None
    )


class _Files:
    def __init__(self, ca: Any, certificate: Any, key: Any) -> None:
        self._paths = {"ca": ca, "certificate": certificate, "key": key}
        self._seen: Any = None

    def check(self, *, needs_certificate: bool) -> None:
        """Raise what is wrong, all of it."""
        self._seen = self._stamp()
        problems = list(self._problems(needs_certificate=needs_certificate))
        if not problems:
            problems = list(self._problems_together())
        if problems:
            raise ConfigurationError(problems)

    def _problems(self, *, needs_certificate: bool) -> Iterator[Problem]:
        for option, other in (("certificate", "key"), ("key", "certificate")):
            if self._paths[option] is None and (needs_certificate or self._paths[other] is not None):
                yield Problem(option, None, f"the path of a PEM file, as there has to be one with the {other}")
        for option, path in self._paths.items():
            if path is not None and (expected := _fault(path, _KEY if option == "key" else _CERTIFICATE)):
                yield Problem(option, path, expected)

    def _problems_together(self) -> Iterator[Problem]:
        """Yield what OpenSSL has against files that look right."""
        ca, certificate, key = self._paths.values()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca is not None:
            try:
                context.load_verify_locations(ca)
            except ssl.SSLError as error:
                yield Problem("ca", ca, f"certificates that can be read ({error.reason})")
        if certificate is not None:
            try:
                context.load_cert_chain(certificate, key, password=_no_password)
            except ssl.SSLError as error:
                yield Problem("certificate", certificate, f"a certificate of the key {key!s} ({error.reason})")

    def _stamp(self) -> tuple[Any, ...]:
        """Return what differs when a file does."""
        return tuple(_stat(path) for path in self._paths.values() if path is not None)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of authorities, certificate and key."""
        roots, chain, private = (None if path is None else Path(path).read_bytes() for path in self._paths.values())
        return roots, chain, private

    def for_server(self) -> Any:
        """Return them as a server has them."""
        roots, chain, private = self.read()
        return grpc.ssl_server_certificate_configuration([(private, chain)], root_certificates=roots)  # type: ignore[list-item]  # checked

    def if_changed(self) -> Any:
        """Return them again where a file has changed and all are right, else None."""
        try:
            if self._stamp() == self._seen:
                return None
            self.check(needs_certificate=True)
            return self.for_server()
        except (ConfigurationError, OSError) as error:
            _log.warning("TLS files have changed and are not used: %s", one_line(error))
            return None


def _stat(path: Any) -> Any:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _fault(path: Any, marker: str) -> str | None:
    """Return what was expected of a file where it is something else."""
    try:
        text = Path(path).read_text("ascii", "replace")
    except (OSError, TypeError, ValueError) as error:
        return f"a PEM file that can be read ({getattr(error, 'strerror', None) or error})"
    if marker not in text:
        return f"a PEM file with a {'private key' if marker == _KEY else 'certificate'}"
    if marker == _KEY and "ENCRYPTED" in text:
        return "a private key without a passphrase: nobody is there to type it"
    return None


def _no_password() -> str:
    raise ssl.SSLError("a passphrase is needed")
