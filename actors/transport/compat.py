"""What the WebSocket needs of libraries that they do not promise.

Owns every use of a private name of aiohttp, so that a new version is checked in one place: here and
by the tests of this file. Checked against aiohttp 3.14.5. Nothing but speed depends on it: aiohttp
masks in C, 70 times faster than websocket-client for 64 KB; where that is missing, as in a build
without extensions or another version, numbers of any length do it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["mask", "mask_in_python"]


def mask_in_python(key: bytes, data: bytearray) -> None:
    """Mask or unmask `data` in place with a key of four bytes (RFC 6455 section 5.3)."""
    count = len(data)
    repeated = (key * (-(-count // 4)))[:count]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
    data[:] = mixed.to_bytes(count, "big")


mask: Callable[[bytes, bytearray], None]
try:
    from aiohttp._websocket.helpers import websocket_mask as mask
except ImportError:
    mask = mask_in_python
