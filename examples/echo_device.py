"""A device that echoes whatever is sent to it, and somebody who talks to it over plain TCP.

    python examples/echo_device.py
    python examples/echo_device.py --forever     # until Ctrl-C; try `nc 127.0.0.1 PORT`

The device's end of the tunnel is callbacks; the other end is a TCP port, as of localproxy.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket

from local_tunnel import a_tunnel

from tunnelfleet.runtime import (
    ConnectionReset,
    ConnectionStarted,
    MessageReceived,
    SecureTunnel,
    StreamStarted,
    TcpAddress,
    TunnelRuntime,
    make_ssl_context,
)


def echo(tunnel: SecureTunnel, event: MessageReceived) -> None:
    """Send every message back on its connection."""
    tunnel.send_message(event.message)


def note(_tunnel: SecureTunnel, event: StreamStarted | ConnectionStarted | ConnectionReset) -> None:
    """Print who comes and goes."""
    print(f"{type(event).__name__}: {event.service_id}, connection {event.connection_id}")


def main() -> None:
    """Be the device, and its visitor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--forever", action="store_true", help="echo until interrupted")
    forever = parser.parse_args().forever
    with a_tunnel(["ECHO"]) as given:
        context = make_ssl_context(given.root_ca) if given.root_ca else None
        with TunnelRuntime(ssl_context=context) as runtime:
            device = SecureTunnel(
                given.destination_token,
                "destination",
                given.endpoint,
                runtime=runtime,
                on_message_received=echo,
                on_stream_started=note,
                on_connection_started=note,
                on_connection_reset=note,
            )
            with device:
                device.wait_connected(10)
                print(f"echoing on {given.endpoint}")
                if given.source_token:
                    visit(runtime, given.source_token, given.endpoint, forever=forever)
                elif forever:
                    wait_for_interrupt()


def visit(runtime: TunnelRuntime, token: str, endpoint: str, *, forever: bool) -> None:
    """Be the other end: a TCP port that leads to the device."""
    operator = SecureTunnel(
        token,
        "source",
        endpoint,
        runtime=runtime,
        name="operator",
        services={"ECHO": "127.0.0.1:0"},
    )
    with operator:
        operator.wait_connected(10)
        address = runtime.tunnel("operator").wait_listening("ECHO", 10)
        assert isinstance(address, TcpAddress)
        print(f"listening on {address}")
        for text in (b"hello", b"from the other side"):
            with socket.create_connection((address.host, address.port), timeout=10) as client:
                client.sendall(text)
                print(f"echoed: {client.recv(1_000).decode()}")
        if forever:
            wait_for_interrupt()


def wait_for_interrupt() -> None:
    """Wait until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    main()
