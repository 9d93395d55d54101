"""What comes back from a database: sealed tokens (runtime/gateway/store/sealing.py)."""

from __future__ import annotations

import json

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tunnelfleet.runtime.gateway.store.sealing import Sealer, SealingError

SEALER = Sealer(b"s" * 32, "gw")
OTHER = Sealer(b"o" * 32, "gw")
VALUES = {"access_token": "t" * 40, "client_token": "c" * 32}
SEALED = SEALER.seal("press-4", VALUES)
MAX_SHOWN = 200


def run(data: bytes) -> None:
    source = Source(data)
    how, at, change = source.byte() % 4, source.number(), source.byte()
    name = source.take(source.byte() % 16).decode("utf-8", "replace")
    if how == 0:
        # Whatever somebody wrote there.
        assert opened(SEALER, name, source.rest()) is None
    elif how == 1:
        # One byte of it was changed.
        changed = bytearray(SEALED)
        changed[at % len(changed)] ^= change
        assert opened(SEALER, "press-4", bytes(changed)) == (None if change else VALUES)
    elif how == 2:
        # It was cut, or moved to another tunnel.
        whole = at >= len(SEALED)
        found = opened(SEALER, name or "press-4", SEALED[:at])
        assert found == (VALUES if whole and name in ("", "press-4") else None)
    else:
        rest = source.rest().decode("utf-8", "replace")
        values = {name: rest}
        assert opened(SEALER, rest[:8], SEALER.seal(rest[:8], values)) == values
        assert opened(OTHER, rest[:8], SEALER.seal(rest[:8], values)) is None
        json.dumps(values)


def opened(sealer: Sealer, name: str, sealed: bytes) -> dict[str, str] | None:
    """What it holds; None if it does not open."""
    try:
        with TURNS:
            return sealer.unseal(name, sealed, sealer.key_id)
    except SealingError as error:
        assert is_line(str(error), MAX_SHOWN)
        return None


HARNESS = Harness(
    run=run,
    covers=["runtime/gateway/store/sealing.py"],
    seeds=[
        b"\0\0\0\0",
        b"\0\0\0\7press-4" + b"\1" + bytes(12),
        b"\0\0\0\7press-4" + b"\1" + bytes(28),
        b"\1\3\1",
        b"\1\3\0",
        b"\2\x14\0\0",
        b"\2\xf0\0\1\0\0\0\0",
        b"\3\0\0\3abcdefghijk",
    ],
    max_bytes=256,
)
