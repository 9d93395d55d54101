"""The handle on a tunnel shows what is there, waits for what comes, keeps tokens to itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.support.actors import hold
from tests.support.killed.killing import Kill, Moment
from tests.support.rig import Rig, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import DispatchedActor, DispatchedRef, Dispatcher
from tunnelfleet.actors.tunnel.messages import Drain, ReplaceToken
from tunnelfleet.actors.tunnel.supervisors import TunnelSupervisor
from tunnelfleet.runtime import Mode, TunnelConfig, TunnelState

if TYPE_CHECKING:
    from tests.support.rig import Pair


@pytest.fixture
def pair(plain_rig: Rig) -> Pair:
    return plain_rig.pair({"SSH": plain_rig.backends.echo().address})


def test_a_status_counts_what_travelled(plain_rig: Rig, pair: Pair) -> None:
    with pair.connect("SSH") as sock:
        assert echo(sock, b"hello") == b"hello"
        source, destination = pair.source.status(), pair.destination.status()
    for status in (source, destination):
        assert (status.sent_bytes, status.received_bytes) == (5, 5)
        assert (status.streams_opened, status.connections_opened) == (1, 1)
        assert status.service_ids == ("SSH",)
        assert status.channel_id
    assert source.mode is Mode.SOURCE
    assert source.listening == {"SSH": (str(pair.address("SSH")),)}
    assert destination.listening == {}
    assert source.since <= destination.since + 60


def test_a_status_is_a_snapshot(pair: Pair) -> None:
    status = pair.source.status()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.state = TunnelState.STOPPED  # type: ignore[misc]


def test_nothing_of_it_shows_a_token(pair: Pair) -> None:
    shown = f"{pair.source!r} {pair.source.status()!r} {pair.source.config!r}"
    for token in (pair.tokens.source_token, pair.tokens.destination_token):
        assert token not in shown


def test_waiting_says_what_it_is_instead_and_why(plain_rig: Rig, pair: Pair) -> None:
    with pytest.raises(TimeoutError, match=r"is not refused after 0\.05 s: it is connected"):
        pair.source.wait_for(TunnelState.REFUSED, 0.05)
    several = {TunnelState.STOPPED, TunnelState.REFUSED, TunnelState.BACKOFF}
    with pytest.raises(TimeoutError) as caught:
        pair.source.wait_for(several, 0.05)
    said = "is not backoff, refused or stopped after 0.05 s: it is connected"
    assert str(caught.value) == f"tunnel {pair.source.name!r} {said}"
    with pytest.raises(TimeoutError, match="does not listen for 'HTTP'"):
        pair.source.wait_listening("HTTP", 0.05)


def test_waiting_takes_states_by_their_names_and_no_others(pair: Pair) -> None:
    assert pair.source.wait_for("connected", WAIT_SECONDS).state is TunnelState.CONNECTED
    assert pair.source.wait_for(["refused", "connected"], WAIT_SECONDS).state == "connected"
    for wrong in ("up", [], ["connected", "up"]):
        with pytest.raises(ValueError, match=r"is not a valid TunnelState|no state is given"):
            pair.source.wait_for(wrong, WAIT_SECONDS)


def test_a_closed_tunnel_keeps_its_last_status(plain_rig: Rig, pair: Pair) -> None:
    status = plain_rig.runtime.close_tunnel(pair.source.name)
    assert status.state is TunnelState.STOPPED
    assert pair.source.status().state is TunnelState.STOPPED


class Opener(DispatchedActor):
    """A host's actor that opens a tunnel and at once gives it a command."""

    def __init__(self, plain_rig: Rig) -> None:
        super().__init__()
        self._rig = plain_rig

    def on_receive(self, message: TunnelConfig) -> None:
        self._rig.runtime.open_tunnel(message)
        self._rig.runtime.drain_tunnel(message.name)


def test_a_command_before_its_actors_have_started_is_for_them(plain_rig: Rig) -> None:
    tokens = plain_rig.service.open_tunnel("early", ["SSH"])
    config = TunnelConfig(
        name="early",
        mode=Mode.SOURCE,
        endpoint=plain_rig.endpoint,
        access_token=tokens.source_token,
    )
    with Dispatcher("host") as host:
        Opener.start(plain_rig, dispatcher=host).ask(config, timeout=WAIT_SECONDS)
        tunnel = plain_rig.runtime.tunnel("early")
        assert tunnel.wait_for(TunnelState.STOPPED, WAIT_SECONDS).reason == "drained"


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.value)
def test_of_two_tokens_the_newer_one_stays_if_a_supervisor_fails_at_the_first(
    plain_rig: Rig, pair: Pair, moment: Moment
) -> None:
    """Both commands are in its mailbox: the second one is lost with it."""
    name, supervisor = pair.source.name, pair.source._supervisor
    assert supervisor is not None
    dispatcher = plain_rig.runtime._engine.dispatchers[pair.source.dispatcher_number]
    with Kill(TunnelSupervisor, ReplaceToken, moment, name) as kill:
        with hold(dispatcher):
            plain_rig.runtime.replace_token(name, "of-another-tunnel")
            token = plain_rig.service.rotate(pair.name, Mode.SOURCE).source_token
            plain_rig.runtime.replace_token(name, token)
        kill.wait()
    eventually(lambda: not supervisor.is_alive(), "its end")
    pair.source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert pair.source._context.credentials.current()[0] == token


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.value)
def test_a_tunnel_drains_although_the_supervisor_fails_that_is_told_so(
    plain_rig: Rig, pair: Pair, moment: Moment
) -> None:
    with Kill(TunnelSupervisor, Drain, moment, pair.source.name) as kill:
        plain_rig.runtime.drain_tunnel(pair.source.name)
        kill.wait()
    eventually(lambda: pair.source.status().reason == "drained", "the end of its drain")
    assert pair.source.status().state is TunnelState.STOPPED
    assert pair.source.listening == {}


def test_a_token_that_is_replaced_while_its_supervisor_is_down_is_not_lost(
    plain_rig: Rig, pair: Pair
) -> None:
    name = pair.source.name
    token = plain_rig.service.rotate(pair.name, Mode.SOURCE).source_token
    supervisor = pair.source._supervisor
    assert supervisor is not None
    assert isinstance(supervisor, DispatchedRef)
    supervisor.kill()
    eventually(lambda: not supervisor.is_alive(), "its end")
    plain_rig.runtime.replace_token(name, token)
    pair.source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
