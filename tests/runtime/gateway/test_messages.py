from __future__ import annotations

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway import ReloadResult, ReplaceTunnelToken, UnknownTunnel
from tunnelfleet.runtime.gateway.reconcile import Difference


def test_a_reload_is_good_if_something_was_taken_over() -> None:
    assert ReloadResult(Difference()).is_good
    assert not ReloadResult(None).is_good


def test_no_token_is_shown() -> None:
    assert "secret" not in repr(ReplaceTunnelToken("a", "secret", "secret"))


def test_an_unknown_tunnel_is_an_error_of_the_project() -> None:
    assert isinstance(UnknownTunnel("a"), TunnelError)
    assert str(UnknownTunnel("a")) == "there is no tunnel 'a' in this fleet"
