"""The rig itself: what the other end-to-end tests stand on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import require_program
from tests.support.rig import echo, receive_to_end
from tunnelfleet.runtime import TunnelState

if TYPE_CHECKING:
    from tests.support.rig import Rig


def test_a_pair_is_connected_and_carries_bytes(rig: Rig) -> None:
    server = rig.backends.echo()
    pair = rig.pair({"SSH": server.address})
    data = os.urandom(100_000)
    with pair.connect("SSH") as client:
        assert echo(client, data) == data
        client.shutdown(1)
        assert not list(receive_to_end(client))
    assert pair.source.status().state is TunnelState.CONNECTED
    server.wait_active(0)


def test_without_tls(plain_rig: Rig) -> None:
    pair = plain_rig.pair({"SSH": plain_rig.backends.echo().address})
    with pair.connect() as client:
        assert echo(client, b"hello") == b"hello"


def test_a_missing_program_skips_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require_program("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have it"):
        require_program("no-such-program")
