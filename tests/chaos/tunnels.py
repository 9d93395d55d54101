"""Both ends of a tunnel in one process, with a proxy in every place around them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Final

from tunnelfleet.runtime import (
    Address,
    Backoff,
    Endpoint,
    Limits,
    Mode,
    ProtocolVersion,
    SecureTunnel,
    TcpAddress,
    TunnelConfig,
    TunnelState,
)

from .api import ApiServer
from .proxy import Proxy
from .results import QUIET_SECONDS
from .schedule import Place, TunnelPlan

if TYPE_CHECKING:
    from .fleet import Fleet

LIMITS: Final = Limits(
    backoff=Backoff(min_seconds=0.02, max_seconds=0.2, stability_seconds=5.0),
    connect_timeout_seconds=3.0,
    announce_timeout_seconds=3.0,
    stop_timeout_seconds=2.0,
    offline_grace_seconds=0.3,
    half_close_seconds=60.0,
    hello_seconds=60.0,
)
TOUCHED: Final = dataclasses.replace(LIMITS, half_close_seconds=5.0)
"""Of tunnels that something is done to: in V1 and V2 a clock ends what is half-closed."""
IMPATIENT: Final = dataclasses.replace(
    TOUCHED, ping_interval_seconds=0.3, pong_timeout_seconds=0.5, stall_timeout_seconds=3.0
)
"""Of tunnels whose dead link only a ping shows; the others would be ended by a busy machine.

A link with data in front of an unanswered ping has the stall's time beside the pong's: who does not
read may be held up by an application."""


class PlantedTunnel:
    """Both ends of a tunnel, and the proxies around them.

    Args:
        fleet: whose.
        number: its own.
        plan: what it is like.
    """

    def __init__(self, fleet: Fleet, number: int, plan: TunnelPlan) -> None:
        self._fleet = fleet
        self.number = number
        self.plan = plan
        self.name = f"tunnel-{number}"
        self.service_ids = [f"S{each}" for each in range(plan.services)]
        service = ("127.0.0.1", fleet.service.port)
        seed = fleet.schedule.seed
        self.source_link, self.destination_link = Proxy(service, seed), Proxy(service, seed + 1)
        self.clients: dict[str, Proxy] = {}
        self.servers: dict[str, Proxy] = {}
        self.locks = {each: asyncio.Lock() for each in self.service_ids}
        self._api: SecureTunnel | None = None
        self.api_server: ApiServer | None = None
        self._configs: dict[Mode, TunnelConfig] = {}
        self._is_busy = asyncio.Lock()

    def end_name(self, place: Place) -> str:
        """The name of the end that a link belongs to."""
        return f"{self.name} {self._mode(place)}"

    @staticmethod
    def _mode(place: Place) -> Mode:
        return Mode.SOURCE if place is Place.SOURCE_LINK else Mode.DESTINATION

    def proxies(self, place: Place) -> list[Proxy]:
        """The proxies that stand in a place."""
        return {
            Place.SOURCE_LINK: [self.source_link],
            Place.DESTINATION_LINK: [self.destination_link],
            Place.CLIENT: list(self.clients.values()),
            Place.SERVER: list(self.servers.values()),
        }[place]

    @property
    def all_proxies(self) -> list[Proxy]:
        """All of them."""
        links = [self.source_link, self.destination_link]
        return [*links, *self.clients.values(), *self.servers.values()]

    async def open(self) -> None:
        """Open it at the service, and both ends; nothing is waited for but the listeners."""
        fleet, plan = self._fleet, self.plan
        tokens = fleet.service.open_tunnel(self.name, self.service_ids)
        for service_id in self.service_ids:
            server = fleet.serve(self, service_id)
            self.servers[service_id] = Proxy(server, fleet.schedule.seed)
        for proxy in self.all_proxies:
            await proxy.start()
        limits = TOUCHED if self.number in fleet.schedule.touched() else LIMITS
        if self.number in fleet.schedule.impatient():
            limits = IMPATIENT
        scheme = "wss" if fleet.schedule.tls else "ws"
        common = TunnelConfig(
            name=self.end_name(Place.DESTINATION_LINK),
            mode=Mode.DESTINATION,
            endpoint=Endpoint.parse(f"{scheme}://127.0.0.1:{self.destination_link.address[1]}"),
            access_token=tokens.destination_token,
            client_token=f"{self.number:032x}",
            services={each: TcpAddress(*proxy.address) for each, proxy in self.servers.items()},
            limits=limits,
            marks=plan.marks[1],
        )
        listening: dict[str, Address] = {each: TcpAddress("127.0.0.1", 0) for each in self.servers}
        source = dataclasses.replace(
            common,
            name=self.end_name(Place.SOURCE_LINK),
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse(f"{scheme}://127.0.0.1:{self.source_link.address[1]}"),
            access_token=tokens.source_token,
            client_token=f"{self.number + 1_000:032x}",
            services=listening,
            version=ProtocolVersion(plan.version),
            marks=plan.marks[0],
        )
        self._configs = {Mode.SOURCE: source, Mode.DESTINATION: common}
        if plan.api:
            self.api_server = ApiServer(
                fleet.schedule.seed,
                lambda number, service_id, ending: fleet.claim(self, service_id, number, ending),
                lambda text: fleet.strange(self, text),
            )
        self._start(Mode.DESTINATION)
        self._start(Mode.SOURCE)
        await self._find_listeners()

    def _make_api(self, config: TunnelConfig, server: ApiServer) -> SecureTunnel:
        return SecureTunnel(
            config.access_token,
            config.mode,
            config.endpoint,
            name=config.name,
            client_token=config.client_token or "",
            limits=config.limits,
            marks=config.marks,
            runtime=self._fleet.runtime,
            **server.callbacks,
        )

    def _start(self, mode: Mode) -> None:
        config, server = self._configs[mode], self.api_server
        if server is not None and mode is Mode.DESTINATION:
            # A client keeps the token that it was made with: each start has the present one.
            self._api = self._make_api(config, server)
            self._api.start()
        else:
            self._fleet.runtime.open_tunnel(config)

    async def _find_listeners(self) -> None:
        source = self._fleet.runtime.tunnel(self.end_name(Place.SOURCE_LINK))
        for service_id in self.service_ids:
            address = await asyncio.to_thread(source.wait_listening, service_id, QUIET_SECONDS)
            assert isinstance(address, TcpAddress)
            target = (address.host, address.port)
            if service_id in self.clients:
                self.clients[service_id].target = target
            else:
                self.clients[service_id] = Proxy(target, self._fleet.schedule.seed)
                await self.clients[service_id].start()

    async def reopen(self, place: Place) -> None:
        """Close one end in good order, and open it again."""
        mode = self._mode(place)
        async with self._is_busy:
            await asyncio.to_thread(self._close, mode)
            self._start(mode)
            if mode is Mode.SOURCE:
                await self._find_listeners()

    def _close(self, mode: Mode) -> None:
        if self._api is not None and mode is Mode.DESTINATION:
            self._api.stop().result(QUIET_SECONDS)
        else:
            with contextlib.suppress(KeyError):
                name = self._configs[mode].name
                self._fleet.runtime.close_tunnel(name, timeout_seconds=QUIET_SECONDS)

    def close(self) -> None:
        """Close both ends in good order."""
        self._close(Mode.SOURCE)
        self._close(Mode.DESTINATION)

    def rotate(self, mode: Mode) -> None:
        """Have the token of one end revoked, and give it the new one."""
        tokens = self._fleet.service.rotate(self.name, mode)
        token = tokens.source_token if mode is Mode.SOURCE else tokens.destination_token
        self._configs[mode] = dataclasses.replace(self._configs[mode], access_token=token)
        self.give_token(mode)

    def give_token(self, mode: Mode) -> None:
        """Give an end its token anew, as an operator does after a refusal."""
        config = self._configs[mode]
        token = config.access_token
        if self._api is not None and mode is Mode.DESTINATION:
            self._api.replace_token(token, config.client_token)
        else:
            self._fleet.runtime.replace_token(config.name, token, config.client_token)

    def states(self) -> list[tuple[str, TunnelState, str]]:
        """Name, state and reason of both ends."""
        found = []
        for config in self._configs.values():
            try:
                status = self._fleet.runtime.tunnel(config.name).status()
            except KeyError:
                found.append((config.name, TunnelState.STOPPED, "not open"))
            else:
                found.append((config.name, status.state, status.reason))
        return found
