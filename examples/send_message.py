"""Send messages, know when each was written, and what is wrong with one that was not.

python examples/send_message.py
"""

from __future__ import annotations

import threading

from local_tunnel import a_tunnel

from tunnelfleet.runtime import (
    LocalProtocolError,
    Message,
    MessageReceived,
    SecureTunnel,
    TunnelRuntime,
    make_ssl_context,
)


def main() -> None:
    """Send what is right, then what is wrong."""
    answered = threading.Event()

    def answer(tunnel: SecureTunnel, event: MessageReceived) -> None:
        text = event.message.payload.decode()
        tunnel.send_message(Message(f"got {text!r}".encode(), event.message.service_id))

    def show(_tunnel: SecureTunnel, event: MessageReceived) -> None:
        print(event.message.payload.decode())
        answered.set()

    with a_tunnel(["ssh"]) as given:
        context = make_ssl_context(given.root_ca) if given.root_ca else None
        with TunnelRuntime(ssl_context=context) as runtime:
            device = SecureTunnel(
                given.destination_token,
                "destination",
                given.endpoint,
                runtime=runtime,
                on_message_received=answer,
            )
            operator = SecureTunnel(
                given.source_token,
                "source",
                given.endpoint,
                runtime=runtime,
                on_message_received=show,
            )
            with device, operator:
                device.wait_connected(10)
                operator.wait_connected(10)
                operator.send_stream_start("ssh").result(10)
                sent = operator.send_message(Message(b"any payload", service_id="ssh"))
                sent.result(10)
                print("written to the socket")
                answered.wait(10)

                for wrong in (Message(b"x", "http"), Message(bytes(70_000), "ssh")):
                    try:
                        operator.send_message(wrong).result(10)
                    except LocalProtocolError as error:
                        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
