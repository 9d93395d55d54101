"""ApiServer: the admin API at its own address, on a thread of its own.

Owns the address, who may ask, and the time that clients have. At a Unix socket the file's
permissions say who may ask; at a TCP address a bearer token does, and requests for another host are
refused, so that no page of a browser's can ask through a name of its own.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiohttp import web

from tunnelfleet.actors.addresses import TcpAddress, UnixAddress, parse_address
from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.proto import CannotListen, ConfigError
from tunnelfleet.runtime.admin.http_thread import SHUTDOWN_SECONDS, HttpThread
from tunnelfleet.runtime.admin.listener import listen_tcp
from tunnelfleet.runtime.admin.options import (
    BearerToken,
    HostCheck,
    HttpLimits,
    no_other_token,
)
from tunnelfleet.runtime.gateway.config import GatewaySettings
from tunnelfleet.runtime.gateway.config.schema import OFF
from tunnelfleet.runtime.gateway.gateway import Gateway
from tunnelfleet.runtime.gateway.listening import UnixListener, UnixPlace

from .app import make_api
from .context import ApiPlaces
from .feed import EventFeed
from .operations import ApiProblem, Handler, ProblemKind
from .requests import read_body


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions(HttpLimits):
    """Options of an ApiServer, and the limits of its clients.

    Attributes:
        place: the Unix socket, or the TCP address; port 0 picks a free one.
        token: what clients at a TCP address must send as `Authorization: Bearer TOKEN`.
        hosts: names that clients at a TCP address may call the gateway by, beside its addresses
            and the name of its machine.

    Raises:
        ConfigError: a TCP address without a token, or a token that no header can hold.
    """

    place: UnixPlace | TcpAddress
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: GatewaySettings) -> ApiOptions | None:
        """Return what the table `[gateway]` says; None for no API.

        Raises:
            ConfigError: as the class does.
        """
        if settings.admin == OFF:
            return None
        address = parse_address(settings.admin)
        if isinstance(address, TcpAddress):
            return cls(place=address, token=settings.admin_token, hosts=settings.admin_hosts)
        path = Path(address.path)
        place = UnixPlace(path, settings.admin_mode, settings.admin_group)
        return cls(place=place, token=settings.admin_token)

    def __post_init__(self) -> None:
        token = self.token
        if token is None:
            if isinstance(self.place, TcpAddress):
                raise ConfigError(
                    "the admin API changes tunnels: at a TCP address it needs a bearer token; "
                    'write admin_token_file, or admin = "unix:PATH"'
                )
        elif not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the bearer token must be printable ASCII without blanks")


class ApiServer:
    """Serves the admin API of a gateway. Use it as a context manager.

    Args:
        gateway: runs, and ends later than the server.
        options: where to listen, whom to let in.
        feed: keeps the events; it hears before the server starts. None for no events.
        places: where the gateway's other doors are.
        current_token: the token of the files as they were last read, if it may change.
    """

    def __init__(
        self,
        gateway: Gateway,
        options: ApiOptions,
        *,
        feed: EventFeed | None = None,
        places: ApiPlaces | None = None,
        current_token: Callable[[], str | None] = no_other_token,
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._token = BearerToken(options.token, current_token)
        self._feed = feed
        self.places = places or ApiPlaces()
        """What is told of them; what is known late may be added until `start`."""
        self._sockets: list[socket.socket] = []
        """Sockets that listen and are not served yet."""
        self._unix: UnixListener | None = None
        self._host_check: HostCheck | None = None
        self._http: HttpThread | None = None
        self.address: TcpAddress | UnixAddress | None = None
        """Where it listens, once it does."""

    @property
    def url(self) -> str:
        """The address of the API, as `--gateway` takes it."""
        if isinstance(self.address, TcpAddress):
            return f"http://{self.address}"
        return f"unix:{self.address}"

    # -- life

    def listen(self) -> None:
        """Take the address; clients wait until `start`.

        A gateway does it before it starts its tunnels: another one that has the address may have
        the tunnels too.

        Raises:
            ConfigError: the address cannot be used.
        """
        place = self._options.place
        if isinstance(place, TcpAddress):
            try:
                self._sockets = listen_tcp(place.host, place.port)
            except OSError as error:
                raise CannotListen("the admin API", place, error) from None
            self.address = TcpAddress(place.host, int(self._sockets[0].getsockname()[1]))
            self._host_check = HostCheck([self.address.host, *self._options.hosts])
        else:
            self._unix = UnixListener(place)
            self._sockets = [self._unix.socket]
            self.address = UnixAddress(str(place.path))

    def start(self) -> Self:
        """Serve, and listen before if that was not done.

        Raises:
            ConfigError: the address cannot be used.
            RuntimeError: it was started before.
        """
        if self._http is not None:
            raise RuntimeError("the admin API was started before; make a new server")
        if self.address is None:
            self.listen()
        self._http = HttpThread(
            "tunnelfleet-api", "the admin API", self._make_runner, self._options
        )
        sockets, self._sockets = self._sockets, []
        try:
            self._http.start(sockets)
        except BaseException:
            self._remove_file()
            raise
        return self

    def stop(self) -> None:
        """Close the listener and end the thread. Safe to call twice."""
        # First, so that no client finds a socket that nobody listens on any more.
        self._remove_file()
        for sock in self._sockets:
            close_socket(sock)
        self._sockets = []
        if self._http is not None:
            self._http.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def _remove_file(self) -> None:
        if self._unix is not None:
            self._unix.remove()

    # -- what every request goes through

    def _make_runner(self, _stopping: asyncio.Event) -> web.BaseRunner:
        app = make_api(
            self._gateway,
            feed=self._feed,
            places=self.places,
            middlewares=[self._keep_time, self._look_who_asks, self._take_body],
        )
        return web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)

    @web.middleware
    async def _keep_time(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        assert self._http is not None
        connection = self._http.find(request)
        try:
            return await handler(request)
        finally:
            connection.end_handling()

    @web.middleware
    async def _look_who_asks(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._host_check is not None and not self._host_check.admits(request):
            raise ApiProblem(
                ProblemKind.OTHER_HOST,
                "use the gateway's address, the name of its machine, or one of admin_hosts",
            )
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")

        def shows(token: str) -> bool:
            return hmac.compare_digest(given, f"Bearer {token}".encode())

        if not self._token.lets_in(shows):
            raise ApiProblem(
                ProblemKind.UNAUTHORIZED,
                "send the bearer token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    @web.middleware
    async def _take_body(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        assert self._http is not None
        # Until it is whole, the connection is one that keeps the server waiting.
        await read_body(request)
        self._http.find(request).begin_handling()
        return await handler(request)
