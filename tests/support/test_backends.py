"""The servers that other tests talk to end with all that is theirs."""

from __future__ import annotations

import asyncio
import gc

from tests.support.backends import Backends
from tests.support.rig import connect


def transports() -> list[asyncio.Transport]:
    return [each for each in gc.get_objects() if isinstance(each, asyncio.Transport)]


def test_a_connection_that_was_just_accepted_ends_with_them() -> None:
    others = transports()
    for _ in range(50):
        with Backends() as backends:
            sock = connect(backends.echo().address)
        sock.close()
        ours = [each for each in transports() if each not in others]
        assert [each for each in ours if not each.is_closing()] == []
