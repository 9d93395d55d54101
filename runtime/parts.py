"""How a tunnel of a runtime is put together: which actors and objects its parts are.

The tunnel's own actors know none of them; they are given the makers that are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.actors.local.listener_actor import ListenerActor
from tunnelfleet.actors.local.stream_actor import LocalEnd, StreamActor
from tunnelfleet.actors.transport.attempt import WebSocketContext
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.transport.websocket_actor import WebSocketActor
from tunnelfleet.actors.tunnel.context import TunnelContext, TunnelParts

if TYPE_CHECKING:
    from tunnelfleet.actors.api.outbox import Outbox
    from tunnelfleet.actors.tunnel.context import ApiHandler, ApiShell


def make_parts(connector: Connector, outbox: Outbox | None = None) -> TunnelParts:
    """Return the makers of the parts of one tunnel.

    Args:
        connector: of this run of the runtime.
        outbox: of the tunnel's client API, if it has one.
    """

    def websocket(
        context: TunnelContext, tunnel: ActorRef[Any], supervisor: ActorRef[Any], epoch: int
    ) -> ActorRef[Any]:
        services = context.services
        assert services.governor is not None
        given = WebSocketContext(
            context.config,
            context.credentials,
            tunnel,
            services.governor,
            supervisor,
            connector,
            services.ssl_context,
            context.stats,
        )
        return WebSocketActor.start(given, epoch)

    def listener(
        service_id: str,
        address: Address,
        tunnel: ActorRef[Any],
        limits: Limits,
        bound: dict[str, Address],
    ) -> ActorRef[Any]:
        return ListenerActor.start(service_id, address, tunnel, limits, bound, connector)

    def stream(
        tunnel: ActorRef[Any], address: Address | None, local_bind: str | None, limits: Limits
    ) -> ActorRef[Any]:
        return StreamActor.start(tunnel, LocalEnd(address, local_bind, limits, connector))

    def api(config: TunnelConfig, shell: ApiShell) -> ApiHandler:
        # A tunnel without a client API does without.
        from tunnelfleet.actors.api.handler import TunnelApi  # noqa: PLC0415

        assert outbox is not None
        handler = TunnelApi(outbox, config, shell)
        outbox.attach(shell.tunnel)
        return handler

    return TunnelParts(websocket, listener, stream, None if outbox is None else api)
