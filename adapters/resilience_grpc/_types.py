"""Types that both stacks and both sides share: metadata, and the functions that users and generated code bring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

__all__ = ("Behaviour", "Codec", "Metadata", "Metadatum", "Trailers")

Metadatum: TypeAlias = tuple[str, str | bytes]
"""One name and one value. Names that end with `-bin` have bytes as values."""
Metadata: TypeAlias = Iterable[Metadatum]
"""What grpcio gives: a tuple on `grpc`, a `grpc.aio.Metadata` on `grpc.aio`."""
Trailers: TypeAlias = tuple[Metadatum, ...]
"""Metadata as both stacks take them."""

Behaviour: TypeAlias = Callable[..., Any]
"""The function behind a method: of any of the four kinds, on either stack, over messages of any class."""
Codec: TypeAlias = Callable[[Any], Any]
"""The serializer or deserializer of a method. Messages are of any class."""
