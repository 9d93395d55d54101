"""The names of options and callbacks are complete and agree."""

from __future__ import annotations

from tunnelfleet import runtime
from tunnelfleet.actors.api import messages as api_events
from tunnelfleet.runtime.client.options import CALLBACKS, SecureTunnelOptions


def test_every_event_has_one_callback() -> None:
    names = set(api_events.__all__) - {"ApiEvent", "Message"}
    assert {kind.__name__ for kind in CALLBACKS.values()} == names
    assert len(set(CALLBACKS.values())) == len(CALLBACKS)


def test_every_callback_is_an_option() -> None:
    names = {name for name in SecureTunnelOptions.__annotations__ if name.startswith("on_")}
    assert names == set(CALLBACKS)
    assert not SecureTunnelOptions.__required_keys__


def test_every_event_and_what_it_may_carry_is_a_public_name() -> None:
    assert set(api_events.__all__) <= set(runtime.__all__)
    assert {"AbnormalEnd", "ConnectionLost", "HandshakeError"} <= set(runtime.__all__)
