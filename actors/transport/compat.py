"""What the WebSocket needs of libraries that they do not promise.

Owns every use of a private name of aiohttp and of Python, so that a new version is checked in one
place: here and by the tests of this file. Checked against aiohttp 3.14.5 and Python 3.11. Nothing
but speed and memory depends on it. aiohttp masks in C, 70 times faster than websocket-client for
64 KB; where that is missing, as in a build without extensions or another version, numbers of any
length do it here. The function alone is loaded, as all of aiohttp takes 10 MB, which a single
tunnel does not need. SHA-1 is taken from where hashlib has it without OpenSSL: hashlib itself has
OpenSSL list all its digests, which takes 0.5 MB for the one of a WebSocket's upgrade.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from typing import Any

__all__ = ["mask", "mask_in_python", "sha1_digest"]


def mask_in_python(key: bytes, data: bytearray) -> None:
    """Mask or unmask `data` in place with a key of four bytes (RFC 6455 section 5.3)."""
    count = len(data)
    repeated = (key * (-(-count // 4)))[:count]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
    data[:] = mixed.to_bytes(count, "big")


_EXTENSION = "aiohttp._websocket.mask"


def _load_extension() -> Any:
    """Load the one module that masks; aiohttp finds it loaded if it is imported later.

    Raises:
        ImportError: it is not where it was in the version that this was checked against.
    """
    aiohttp = importlib.util.find_spec("aiohttp")
    folders = (aiohttp and aiohttp.submodule_search_locations) or ()
    spec = PathFinder.find_spec(_EXTENSION, [os.path.join(each, "_websocket") for each in folders])
    if spec is None or spec.loader is None:
        raise ImportError(_EXTENSION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_EXTENSION] = module
    return module


def _find_mask() -> Callable[[bytes, bytearray], None]:
    found: Callable[[bytes, bytearray], None]
    try:
        if os.environ.get("AIOHTTP_NO_EXTENSIONS"):
            found = mask_in_python
        elif "aiohttp" in sys.modules or _EXTENSION in sys.modules:
            from aiohttp._websocket.helpers import websocket_mask as found  # noqa: PLC0415
        else:
            found = _load_extension()._websocket_mask_cython  # noqa: SLF001
    except (ImportError, AttributeError):
        found = mask_in_python
    return found


mask = _find_mask()


def _find_sha1() -> Callable[[bytes], Any]:
    found: Callable[[bytes], Any]
    try:
        found = importlib.import_module("_sha1").sha1
    except (ImportError, AttributeError):
        from hashlib import sha1  # noqa: PLC0415 - only where it has to be

        found = partial(sha1, usedforsecurity=False)
    return found


_sha1 = _find_sha1()


def sha1_digest(data: bytes) -> bytes:
    """The SHA-1 of a WebSocket's key, which proves nothing but that a server speaks WebSocket."""
    digest: bytes = _sha1(data).digest()
    return digest
