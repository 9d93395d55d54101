"""Both ends of a tunnel in asyncio.

python examples/asyncio_client.py
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from local_tunnel import a_tunnel

from tunnelfleet.runtime import (
    Message,
    MessageReceived,
    SecureTunnel,
    TunnelRuntime,
    make_ssl_context,
)

if TYPE_CHECKING:
    from local_tunnel import Given

QUESTIONS = ("temperature", "pressure", "quit")


async def device(tunnel: SecureTunnel) -> None:
    """Answer questions until the tunnel is stopped."""
    async with tunnel:
        async for event in tunnel.events():
            if isinstance(event, MessageReceived):
                message = event.message
                answer = f"{message.payload.decode()} is 42".encode()
                await tunnel.send(Message(answer, message.service_id, message.connection_id))
                if message.payload == b"quit":
                    break


async def operator(tunnel: SecureTunnel) -> None:
    """Ask, and wait for each answer."""
    events = tunnel.events()
    async with tunnel:
        await tunnel.connected()
        await asyncio.wrap_future(tunnel.send_stream_start("ASK"))
        for question in QUESTIONS:
            await tunnel.send(Message(question.encode(), "ASK"))
            async for event in events:
                if isinstance(event, MessageReceived):
                    print(event.message.payload.decode())
                    break


async def talk(given: Given, runtime: TunnelRuntime) -> None:
    """Run both ends at once."""
    ends = {"destination": given.destination_token, "source": given.source_token}
    tunnels = {
        mode: SecureTunnel(token, mode, given.endpoint, runtime=runtime)
        for mode, token in ends.items()
    }
    answering = asyncio.create_task(device(tunnels["destination"]))
    await asyncio.sleep(0)
    await tunnels["destination"].connected()
    await operator(tunnels["source"])
    await answering


def main() -> None:
    """Open a tunnel and let its two ends talk."""
    with a_tunnel(["ASK"]) as given:
        context = make_ssl_context(given.root_ca) if given.root_ca else None
        with TunnelRuntime(ssl_context=context) as runtime:
            asyncio.run(talk(given, runtime))


if __name__ == "__main__":
    main()
