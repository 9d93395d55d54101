"""What libraries do not promise stands in `compat` modules, and nothing but speed depends on it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.kernel import compat as pykka_compat
from tunnelfleet.actors.transport import compat

ROOT = Path(__file__).parent.parent.parent.parent
FOLDERS = ("actors", "package", "proto", "runtime")
COMPAT = {"actors/kernel/compat.py", "actors/transport/compat.py", "runtime/ray_fleet/cluster.py"}
PRIVATE = re.compile(r"_(?!_)")
OF_PYTHON = {"_thread"}
"""Documented, in spite of its name."""


def private_names(path: Path) -> set[str]:
    """What a file imports of others that has a private name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n for n in names if any(map(PRIVATE.match, n.split(".")))}
    return {name for name in found if name.split(".")[0] not in OF_PYTHON}


def test_private_names_are_imported_in_compat_only() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in paths if private_names(path)}
    assert found == COMPAT


@pytest.mark.parametrize(
    ("module", "library"),
    [(pykka_compat, "pykka"), (compat, "aiohttp")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_they_say_which_versions_they_were_checked_against(module: object, library: str) -> None:
    checked = re.findall(rf"\b{library} (\d+\.\d+)", " ".join((module.__doc__ or "").split()))
    assert checked, f"no version of {library} is named"
    installed = importlib.metadata.version(library)
    if library != "aiohttp":
        # pyproject.toml allows these minor versions only; another one has to be checked first.
        assert installed.startswith(f"{checked[0]}.")


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=300))
def test_both_masks_do_what_the_standard_says(key: bytes, data: bytes) -> None:
    expected = bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
    for mask in (compat.mask, compat.mask_in_python):
        found = bytearray(data)
        mask(key, found)
        assert bytes(found) == expected


@given(st.binary(max_size=300))
def test_the_digest_is_hashlib_s(data: bytes) -> None:
    assert compat.sha1_digest(data) == hashlib.sha1(data, usedforsecurity=False).digest()


def test_without_python_s_own_sha1_hashlib_is_taken() -> None:
    code = (
        "import sys; sys.modules['_sha1'] = None\n"
        "from tunnelfleet.actors.transport.compat import sha1_digest\n"
        "assert sha1_digest(b'').hex().startswith('da39a3ee'); assert 'hashlib' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_aiohttp_s_mask_is_taken_where_it_is() -> None:
    is_left_out = bool(os.environ.get("AIOHTTP_NO_EXTENSIONS"))
    assert (compat.mask is compat.mask_in_python) is is_left_out


WITHOUT_MASK = """
import sys
import aiohttp._websocket.helpers as helpers
del helpers.websocket_mask
from tunnelfleet.actors.transport import compat
assert compat.mask is compat.mask_in_python
"""
WITHOUT_EXTENSIONS = """
import sys
sys.modules["aiohttp._websocket.mask"] = None
"""
TRANSFER = """
import queue
from tunnelfleet import Message, MessageReceived, SecureTunnelBuilder
from tunnelfleet.runtime.service import TunnelService

got = queue.SimpleQueue()
payload = bytes(range(256)) * 1_000 + b"odd"

def tunnel(token, mode):
    builder = SecureTunnelBuilder(token, mode, service.endpoint).with_root_ca(service.ca_path)
    if mode == "destination":
        builder.with_on_message_received(lambda _tunnel, event: got.put(event.message.payload))
    return builder.build()

with TunnelService() as service:
    tokens = service.open_tunnel("t", ["SSH"])
    source = tunnel(tokens.source_token, "source")
    destination = tunnel(tokens.destination_token, "destination")
    for each in (source, destination):
        each.start()
        each.wait_connected(30)
    source.send_stream_start("SSH").result(30)
    for start in range(0, len(payload), 60_000):
        source.send_message(Message(payload[start : start + 60_000], "SSH")).result(30)
    found = b""
    while len(found) < len(payload):
        found += got.get(timeout=200)
    assert found == payload
    for each in (source, destination):
        each.stop().result(30)
print("whole")
"""


@pytest.mark.parametrize("blocked", [WITHOUT_MASK, WITHOUT_EXTENSIONS], ids=["mask", "extensions"])
def test_client_and_service_work_without_it(blocked: str) -> None:
    """In a process of its own; both take the mask when they are imported."""
    done = subprocess.run(
        [sys.executable, "-c", blocked + TRANSFER],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
