"""The servers that other tests talk to end with all that is theirs."""

from __future__ import annotations

import asyncio
import gc

from tests.support.backends import Backends
from tests.support.rig import connect


def test_a_connection_that_was_just_accepted_ends_with_them() -> None:
    for _ in range(50):
        with Backends() as backends:
            sock = connect(backends.echo().address)
        sock.close()
        left = [each for each in gc.get_objects() if isinstance(each, asyncio.Transport)]
        assert [each for each in left if not each.is_closing()] == []
