"""Bytes that show when any of them is lost, doubled, changed or moved."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 1_048_576
MIB = 1_048_576
_COUNTER_BYTES = 8


def blocks(size_bytes: int, seed: int = 0) -> Iterator[bytes]:
    """Random blocks, each with its own number in front, so that no two are alike."""
    body = random.Random(seed).randbytes(BLOCK_BYTES - _COUNTER_BYTES)
    number = 0
    while size_bytes > 0:
        block = number.to_bytes(_COUNTER_BYTES, "big") + body
        yield block[:size_bytes]
        size_bytes -= BLOCK_BYTES
        number += 1


def digest(parts: Iterator[bytes] | list[bytes]) -> str:
    """SHA-256 of the parts together, in hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
