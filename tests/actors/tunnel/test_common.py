"""TunnelActor's state for people, and what outlives a restart of it.

The marks of a transcript are in `tests.support.transcripts`.
"""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from tests.support.transcripts import to_message, to_text
from tunnelfleet.actors import events
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.tunnel.actor import TunnelActor
from tunnelfleet.proto import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.tunnel_rig import TunnelRig
    from tunnelfleet.actors.kernel import Dispatcher

    MakeRig = Callable[..., TunnelRig]


@pytest.mark.parametrize(
    "text",
    [
        "STREAM_START SSH 1/1",
        "DATA - 7 hello world",
        "DATA SSH 1/2 <1000>",
        "SERVICE_IDS SSH,HTTP",
        "SERVICE_IDS ",
        "SESSION_RESET",
        "STREAM_RESET SSH -3",
    ],
)
def test_a_transcript_s_message_is_read_as_it_is_written(text: str) -> None:
    assert to_text(to_message(text)) == text


def test_every_state_is_an_event_once(rig: MakeRig) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.lose()
    tunnel.connect()
    states = [event.state.value for event in tunnel.events_of(events.TunnelStateChanged)]
    assert states == ["connected", "backoff", "connecting", "connected"]


def test_a_restarted_actor_keeps_the_counters_and_forgets_what_was_active(
    rig: MakeRig, dispatcher: Dispatcher
) -> None:
    tunnel = rig()
    tunnel.connect()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 hello")
    tunnel.tunnel.stop()
    TunnelActor.start(tunnel.context, dispatcher=dispatcher)
    tunnel.settle()
    service = tunnel.stats.services["SSH"]
    assert (service.received_bytes, service.connections_opened) == (5, 1)
    assert (service.streams_active, service.connections_active) == (0, 0)
    assert tunnel.stats.state is TunnelState.CONNECTING


def test_what_nobody_expects_is_logged_by_its_type_and_not_by_its_content(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = rig()
    tunnel.tell("a secret")
    assert "secret" not in caplog.text
    assert tunnel.tunnel.is_alive()


@pytest.mark.parametrize("mode", list(Mode))
def test_an_actor_that_has_ended_is_freed_by_reference_count_alone(
    rig: MakeRig, mode: Mode
) -> None:
    """Its parts lead back to it while it lives, and not when it has ended."""
    tunnel = rig(mode)
    tunnel.connect()
    if mode is Mode.SOURCE:
        tunnel.accept("SSH")
    else:
        tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 hello")
    gc.collect()
    gc.disable()
    try:
        actor = weakref.ref(tunnel.tunnel.cell.actor)
        tunnel.tunnel.stop()
        tunnel.settle()
        assert actor() is None
    finally:
        gc.enable()
