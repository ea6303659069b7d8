"""TLS contexts from files. Files that are wrong are reported when the client is made, by name."""

from __future__ import annotations

import os
import ssl
from typing import TypeAlias

from resilience.errors import ConfigurationError, Problem
from resilience.options import Instance, Text, checked

__all__ = ("PathText", "client_context", "name_of_server")

PathText: TypeAlias = str | os.PathLike[str]

_SERVER = Text("the host name in the server's certificate", pattern=r"\S+", longest=255)


def client_context(
    context: ssl.SSLContext | None,
    ca: PathText | None,
    certificate: PathText | None,
    key: PathText | None,
    *,
    prefix: str = "",
) -> ssl.SSLContext:
    """Return `context`, or a new one that checks the server's certificate and its name.

    Args:
        context: A context that is used as it is, None for a new one.
        ca: The PEM file with the certificates of the authorities; None for those of the system.
        certificate: The PEM file with the client's own certificate.
        key: The PEM file with its key, None if `certificate` contains it.
        prefix: The start of the names of these options, in errors.

    Raises:
        ConfigurationError: A file is missing or wrong, or files are given beside a context.
    """
    if context is not None:
        for option, path in (("ca", ca), ("certificate", certificate), ("key", key)):
            if path is not None:
                raise ConfigurationError(
                    [Problem(prefix + option, path, "None beside a context, which has its own files")]
                )
        given: ssl.SSLContext = checked(context, "context", Instance(ssl.SSLContext, expected="an ssl.SSLContext"))
        return given
    if key is not None and certificate is None:
        raise ConfigurationError([Problem(f"{prefix}certificate", None, "the path of a PEM file, as there is a key")])
    made = _with_authorities(ca, prefix)
    if certificate is not None:
        _load_own(made, certificate, key, prefix)
    return made


def _with_authorities(ca: PathText | None, prefix: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, TypeError, ValueError) as error:
        raise ConfigurationError(
            [Problem(f"{prefix}ca", ca, f"a PEM file of certificates ({_reason(error)})")]
        ) from None


def _load_own(context: ssl.SSLContext, certificate: PathText, key: PathText | None, prefix: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, TypeError, ValueError) as error:
        expected = f"a PEM file with a certificate, and its key there or in `{prefix}key` ({_reason(error)})"
        raise ConfigurationError([Problem(f"{prefix}certificate", certificate, expected)]) from None


def name_of_server(given: str | None, host: str) -> str:
    """Return the name that the server's certificate must have."""
    name: str = host if given is None else checked(given, "server_hostname", _SERVER)
    return name


def _reason(error: Exception) -> object:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or error


def _no_password() -> str:
    raise ssl.SSLError("the key has a passphrase, which a service cannot type")
