"""Deterministic pseudo-random content, and the check that what arrived is that content.

Owns the bytes that the demo sends: the same seed gives the same bytes on both ends of a tunnel, so
that every byte can be compared and none needs to be kept. Pure: must not know sockets or tunnels.
"""

from __future__ import annotations

import hashlib
from typing import Final

BLOCK_BYTES: Final = 4_096
"""Content is made in blocks of this size; a block depends on the seed and its number only."""


def block(seed: str, number: int) -> bytes:
    """Return block `number`, `BLOCK_BYTES` long, of the content of `seed`."""
    return hashlib.shake_128(f"{seed}/{number}".encode()).digest(BLOCK_BYTES)


class Content:
    """The endless content of a seed, read from its beginning.

    Args:
        seed: any text; different texts give unrelated content.
    """

    __slots__ = ("_buffer", "_next_block", "_seed")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._next_block = 0
        self._buffer = b""

    def take(self, count_bytes: int) -> bytes:
        """Return the next `count_bytes` bytes, the same however they are divided into calls."""
        parts, have_bytes = [self._buffer], len(self._buffer)
        while have_bytes < count_bytes:
            parts.append(block(self._seed, self._next_block))
            self._next_block += 1
            have_bytes += BLOCK_BYTES
        joined = b"".join(parts)
        self._buffer = joined[count_bytes:]
        return joined[:count_bytes]


class Verifier:
    """Compares what arrives with the content of a seed, byte by byte.

    Args:
        seed: of the content that must arrive.
        size_bytes: how much of it must arrive; every byte beyond counts as wrong.
    """

    __slots__ = ("_content", "mismatched_bytes", "received_bytes", "size_bytes")

    def __init__(self, seed: str, size_bytes: int) -> None:
        self._content = Content(seed)
        self.size_bytes = size_bytes
        self.received_bytes = 0
        self.mismatched_bytes = 0

    @property
    def missing_bytes(self) -> int:
        """How much has not arrived yet."""
        return max(0, self.size_bytes - self.received_bytes)

    @property
    def is_complete(self) -> bool:
        """Whether as much arrived as must arrive, right or wrong."""
        return self.missing_bytes == 0

    def feed(self, data: bytes) -> int:
        """Check the next bytes that arrived.

        Returns:
            How many of them are wrong.
        """
        wrong_bytes = count_differences(
            data, self._content.take(min(len(data), self.missing_bytes))
        )
        self.received_bytes += len(data)
        self.mismatched_bytes += wrong_bytes
        return wrong_bytes


def count_differences(received: bytes, expected: bytes) -> int:
    """Return in how many positions the two differ; a position that only one has is a difference."""
    if received == expected:
        return 0
    unequal = sum(a != b for a, b in zip(received, expected, strict=False))
    return unequal + abs(len(received) - len(expected))
