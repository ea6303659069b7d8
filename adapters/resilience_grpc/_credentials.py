"""TLS credentials from files, in both directions. Files that are wrong are reported at the start, by name."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import grpc

from resilience.errors import ConfigurationError, Problem, one_line

__all__ = ("channel_credentials", "server_credentials")

_log = logging.getLogger("resilience.grpc")
_CERTIFICATE, _KEY = "-----BEGIN CERTIFICATE-----", "PRIVATE KEY-----"
_PathText: TypeAlias = str | os.PathLike[str]


def channel_credentials(
    ca: _PathText | None = None, *, certificate: _PathText | None = None, key: _PathText | None = None
) -> grpc.ChannelCredentials:
    """Return credentials from PEM files for `grpc.secure_channel` and `grpc.aio.secure_channel`.

    The files are read once. A `LazyChannel` whose `make` calls this function reads them for each new channel.

    Args:
        ca: The certificates of the authorities that have signed the servers. Default: those that gRPC ships.
        certificate: The client's certificate, for servers that check who calls (mutual TLS). It needs `key`.
        key: The private key of `certificate`, without a passphrase.

    Raises:
        ConfigurationError: Lists every file that is missing, unreadable, locked or of another kind.
    """
    files = _PemFiles(ca, certificate, key)
    files.check(needs_certificate=False)
    roots, chain, private = files.read()
    return grpc.ssl_channel_credentials(roots, private, chain)


def server_credentials(
    certificate: _PathText, key: _PathText, *, ca: _PathText | None = None
) -> grpc.ServerCredentials:
    """Return credentials from PEM files for `server.add_secure_port`, on either stack.

    Files that change are read again at the next handshake. If they are wrong then, the old ones stay in use, and the
    log says why.

    Args:
        certificate: The server's certificate.
        key: Its private key, without a passphrase.
        ca: The certificates of the authorities that have signed the clients. With it, only clients with such a
            certificate are served (mutual TLS). Default: clients need no certificate.

    Raises:
        ConfigurationError: Lists every file that is missing, unreadable, locked or of another kind.
    """
    files = _PemFiles(ca, certificate, key)
    files.check(needs_certificate=True)
    return grpc.dynamic_ssl_server_credentials(
        files.for_server(),
        files.if_changed,  # type: ignore[arg-type]  # None means unchanged; the stub does not say so
        require_client_authentication=ca is not None,
    )


class _PemFiles:
    """The files of one side. `check` notes their state, so that a change can be seen.

    Args:
        ca: The path of the authorities' certificates, or None.
        certificate: The path of the own certificate, or None.
        key: The path of the private key, or None.
    """

    def __init__(self, ca: _PathText | None, certificate: _PathText | None, key: _PathText | None) -> None:
        self._paths = {"ca": ca, "certificate": certificate, "key": key}
        self._checked: tuple[object, ...] = ()

    def check(self, *, needs_certificate: bool) -> None:
        """Raise one `ConfigurationError` with all problems."""
        self._checked = self._state()
        problems = list(self._file_problems(needs_certificate=needs_certificate))
        if not problems:
            problems = list(self._content_problems())
        if problems:
            raise ConfigurationError(problems)

    def _file_problems(self, *, needs_certificate: bool) -> Iterator[Problem]:
        for option, other in (("certificate", "key"), ("key", "certificate")):
            if self._paths[option] is None and (needs_certificate or self._paths[other] is not None):
                yield Problem(option, None, f"the path of a PEM file, as there has to be one with the {other}")
        for option, path in self._paths.items():
            if path is not None and (expected := _expected(path, _KEY if option == "key" else _CERTIFICATE)):
                yield Problem(option, path, expected)

    def _content_problems(self) -> Iterator[Problem]:
        """Yield the objections of OpenSSL to files that look right."""
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

    def _state(self) -> tuple[object, ...]:
        """Return a value that differs if a file does."""
        return tuple(_file_state(path) for path in self._paths.values() if path is not None)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of authorities, certificate and key."""
        roots, chain, private = (None if path is None else Path(path).read_bytes() for path in self._paths.values())
        return roots, chain, private

    def for_server(self) -> grpc.ServerCertificateConfiguration:
        """Return the contents as a server takes them."""
        roots, chain, private = self.read()
        return grpc.ssl_server_certificate_configuration([(private, chain)], root_certificates=roots)  # type: ignore[list-item]  # checked

    def if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the contents again if a file has changed and all are right, else None."""
        try:
            if self._state() == self._checked:
                return None
            self.check(needs_certificate=True)
            return self.for_server()
        except (ConfigurationError, OSError) as error:
            _log.warning("TLS files have changed and are not used: %s", one_line(error))
            return None


def _file_state(path: _PathText) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _expected(path: _PathText, marker: str) -> str | None:
    """Return the expected kind of a file, None if the file is of that kind."""
    try:
        text = Path(path).read_text("ascii", "replace")
    except (OSError, TypeError, ValueError) as error:
        return f"a PEM file that can be read ({getattr(error, 'strerror', None) or error})"
    if marker not in text:
        return f"a PEM file with a {'private key' if marker == _KEY else 'certificate'}"
    if marker == _KEY and "ENCRYPTED" in text:
        return "a private key without a passphrase: a server cannot ask for it"
    return None


def _no_password() -> str:
    raise ssl.SSLError("a passphrase is needed")
