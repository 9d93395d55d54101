"""Every callback, on both ends of a tunnel: what comes when.

python examples/callbacks.py
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from local_tunnel import a_tunnel

from tunnelfleet.runtime import (
    ApiEvent,
    Message,
    MessageReceived,
    SecureTunnel,
    SecureTunnelBuilder,
    TunnelRuntime,
)

if TYPE_CHECKING:
    from local_tunnel import Given


def show(tunnel: SecureTunnel, event: ApiEvent) -> None:
    """Print an event: `on_message_received` and the others all look like this."""
    print(f"{tunnel.mode:12} {event}")


def build(given: Given, mode: str, token: str, runtime: TunnelRuntime) -> SecureTunnelBuilder:
    """A builder with every callback but the one for messages."""
    builder = SecureTunnelBuilder(token, mode, given.endpoint).with_runtime(runtime).with_name(mode)
    if given.root_ca:
        builder.with_root_ca(given.root_ca)
    return (
        builder.with_on_connection_success(show)
        .with_on_connection_failure(show)
        .with_on_connection_shutdown(show)
        .with_on_send_message_complete(show)
        .with_on_stream_started(show)
        .with_on_stream_stopped(show)
        .with_on_connection_started(show)
        .with_on_connection_reset(show)
        .with_on_session_reset(show)
        .with_on_stopped(show)
    )


def main() -> None:
    """Start a stream, send a message, and print all that happens."""
    received = threading.Event()

    def on_message_received(tunnel: SecureTunnel, event: MessageReceived) -> None:
        message = event.message
        print(f"{tunnel.mode:12} Message received on service id: {message.service_id!r}")
        print(f"{tunnel.mode:12} Message has payload: {message.payload!r}")
        received.set()

    with a_tunnel() as given, TunnelRuntime() as runtime:
        destination = (
            build(given, "destination", given.destination_token, runtime)
            .with_on_message_received(on_message_received)
            .build()
        )
        source = build(given, "source", given.source_token, runtime).build()
        with destination, source:
            destination.wait_connected(10)
            source.wait_connected(10)
            source.send_stream_start("ECHO")
            source.send_connection_start("ECHO")
            source.send_message(Message(b"any payload", "ECHO", 1)).result(10)
            received.wait(10)


if __name__ == "__main__":
    main()
