"""Both ends of a tunnel in this process, to be measured: whose service, which tokens.

The service is the embedded one, or somebody's: then its tokens are given, or its management API
(AWS's, or that of `tunnelfleet service --management`) opens a tunnel, which is deleted afterwards.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import ANY_SERVICE, TunnelConfig
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import ConfigError, Endpoint, Mode, TunnelError, printable
from tunnelfleet.runtime import TunnelRuntime, make_ssl_context
from tunnelfleet.runtime.tunnel import Tunnel

from .figures import FarEnd, TunnelFigures, measure

SERVICE: Final = "BENCH"
CONNECT_SECONDS: Final = 30.0
LEAST_SECONDS: Final = 0.05
MOST_SECONDS: Final = 600.0
LIFETIME_MINUTES: Final = 60
OWN_REGION: Final = "us-east-1"
MAX_REASON: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Attributes:
        seconds: for each figure.
        endpoint: of somebody's service; None: it follows from the region, or is the embedded one.
        region: of AWS.
        source_token: of a tunnel that is there.
        destination_token: of the same tunnel.
        management: URL of a management API, or "aws" for AWS's of the region.
        ca: file or folder of more authorities to trust.
        tls: whether the embedded service speaks TLS.
        pacing: whether the ends find out how fast to send.
    """

    seconds: float = 3.0
    endpoint: str | None = None
    region: str | None = None
    source_token: str | None = field(default=None, repr=False)
    destination_token: str | None = field(default=None, repr=False)
    management: str | None = None
    ca: Path | None = None
    tls: bool = True
    pacing: bool = True

    def __post_init__(self) -> None:
        if not LEAST_SECONDS <= self.seconds <= MOST_SECONDS:
            raise ConfigError(
                f"--seconds is {self.seconds:g}: give {LEAST_SECONDS:g} to {MOST_SECONDS:g}"
            )
        tokens = (self.source_token, self.destination_token)
        if any(tokens) and not all(tokens):
            raise ConfigError(
                "a tunnel has two tokens, and one was given: give --source-token and "
                "--destination-token of the same tunnel, or neither"
            )
        if any(tokens) and self.management:
            raise ConfigError("--management opens a tunnel of its own: leave the tokens out")
        if self.endpoint and self.region and not self.management:
            raise ConfigError("--endpoint and --region exclude each other; keep one")
        self._check_service(is_ours=not any(tokens) and not self.management)

    def _check_service(self, *, is_ours: bool) -> None:
        if not is_ours and not self.tls:
            raise ConfigError("--plain is for the embedded service: write -e ws://HOST:PORT")
        if is_ours and (self.endpoint or self.region or self.ca):
            raise ConfigError(
                "a service was named, and no way in: give --source-token and --destination-token, "
                "or --management; without a service the embedded one is measured"
            )
        if not is_ours and not self.endpoint and not self.region:
            raise ConfigError("no service: give --endpoint HOST[:PORT], or --region for AWS's")


@dataclass(frozen=True, slots=True)
class _BenchTunnel:
    """What is needed to connect both ends."""

    endpoint: Endpoint
    source_token: str
    destination_token: str
    ssl_context: ssl.SSLContext | None


class Bench:
    """One measurement.

    Args:
        options: what is measured.
        tell: called with what goes on, for people.
    """

    def __init__(self, options: BenchOptions, tell: Callable[[str], object]) -> None:
        self._options = options
        self._tell = tell

    def run(self) -> tuple[str, TunnelFigures]:
        """Connect both ends and measure.

        Returns:
            The endpoint, for people, and the figures.

        Raises:
            ConfigError: what was given cannot work.
            TunnelError: the tunnel could not be opened or connected, or broke.
        """
        with ExitStack() as stack:
            tunnel = stack.enter_context(self._opened())
            far_end = stack.enter_context(FarEnd())
            address = stack.enter_context(self._connected(tunnel, far_end))
            self._tell(f"measuring {tunnel.endpoint}, {self._options.seconds:g} s a figure")
            try:
                figures = measure(address, far_end, self._options.seconds)
            except OSError as error:
                raise TunnelError(
                    f"the tunnel broke while it was measured: {error}; see what the service says, "
                    "and try again"
                ) from error
        return str(tunnel.endpoint), figures

    # -- the tunnel

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_BenchTunnel]:
        options = self._options
        if options.source_token and options.destination_token:
            yield self._tunnel(options.source_token, options.destination_token)
        elif options.management:
            yield from self._by_management(options.management)
        else:
            yield from self._embedded()

    def _tunnel(self, source_token: str, destination_token: str) -> _BenchTunnel:
        options = self._options
        if options.endpoint:
            endpoint = Endpoint.parse(options.endpoint)
        else:
            assert options.region is not None
            endpoint = Endpoint.for_region(options.region)
        context = make_ssl_context(options.ca) if options.ca and endpoint.is_tls else None
        return _BenchTunnel(endpoint, source_token, destination_token, context)

    def _embedded(self) -> Iterator[_BenchTunnel]:
        # The service's package loads an HTTP server, which a service of somebody else needs not.
        from tunnelfleet.runtime.service import TunnelService  # noqa: PLC0415

        with TunnelService(tls=self._options.tls) as service:
            opened = service.open_tunnel("bench", [SERVICE])
            context = service.ssl_context() if self._options.tls else None
            yield _BenchTunnel(
                Endpoint.parse(service.endpoint),
                opened.source_token,
                opened.destination_token,
                context,
            )

    def _by_management(self, url: str) -> Iterator[_BenchTunnel]:
        client = _management_client(url, self._options.region)
        try:
            opened = client.open_tunnel(
                description="tunnelfleet bench",
                destinationConfig={"services": [SERVICE]},
                timeoutConfig={"maxLifetimeTimeoutMinutes": LIFETIME_MINUTES},
            )
        except Exception as error:  # noqa: BLE001  boto3 raises what it likes
            raise _management_error(error) from None
        self._tell(f"opened {opened['tunnelId']}, which is deleted at the end")
        try:
            yield self._tunnel(opened["sourceAccessToken"], opened["destinationAccessToken"])
        finally:
            try:
                client.close_tunnel(tunnelId=opened["tunnelId"], delete=True)
            except Exception as error:  # noqa: BLE001
                self._tell(
                    f"{opened['tunnelId']} could not be deleted, delete it yourself: "
                    f"{_management_error(error)}"
                )

    # -- its ends

    @contextlib.contextmanager
    def _connected(self, tunnel: _BenchTunnel, far_end: FarEnd) -> Iterator[TcpAddress]:
        targets = {
            Mode.DESTINATION: (tunnel.destination_token, TcpAddress("127.0.0.1", far_end.port)),
            Mode.SOURCE: (tunnel.source_token, TcpAddress("127.0.0.1", 0)),
        }
        with TunnelRuntime() as runtime:
            ends = {
                mode: runtime.open_tunnel(
                    TunnelConfig(
                        name=f"bench {mode}",
                        mode=mode,
                        endpoint=tunnel.endpoint,
                        access_token=token,
                        services={ANY_SERVICE: address},
                        ssl_context=tunnel.ssl_context,
                        pacing=self._options.pacing,
                    )
                )
                for mode, (token, address) in targets.items()
            }
            self._tell(f"connecting to {tunnel.endpoint}")
            for end in ends.values():
                _await_connected(end)
            yield _listening(ends[Mode.SOURCE])


def _await_connected(end: Tunnel) -> None:
    wanted = (TunnelState.CONNECTED, TunnelState.REFUSED, TunnelState.QUARANTINED)
    try:
        status = end.wait_for(wanted, CONNECT_SECONDS)
    except TimeoutError as error:
        raise TunnelError(f"{error}; look at the endpoint and the network") from None
    if status.state is not TunnelState.CONNECTED:
        raise TunnelError(
            f"the service refused the {end.config.mode}: {status.reason}; a token connects one "
            "client once, and has to be of this mode"
        )
    if status.reason:
        # Connected, and it carries nothing: the tunnel has several services.
        raise TunnelError(status.reason)


def _listening(source: Tunnel) -> TcpAddress:
    """Where the source listens, whatever its service is called."""
    try:
        address = source.wait_listening(ANY_SERVICE, CONNECT_SECONDS)
    except TimeoutError as error:
        raise TunnelError(str(error)) from None
    assert isinstance(address, TcpAddress)
    return address


def _management_client(url: str, region: str | None) -> Any:
    try:
        import boto3  # noqa: PLC0415  an extra
    except ImportError:
        raise ConfigError(
            "--management needs boto3: install it with `pip install 'tunnelfleet[aws]'`"
        ) from None
    endpoint = None if url == "aws" else url
    try:
        return boto3.session.Session().client(
            "iotsecuretunneling",
            # A service of one's own has none, and boto3 wants one.
            region_name=region or (None if endpoint is None else OWN_REGION),
            endpoint_url=endpoint,
        )
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"--management {url}: {_management_error(error)}") from None


def _management_error(error: Exception) -> TunnelError:
    text = printable(str(error) or type(error).__name__, MAX_REASON)
    if "credentials" in text:
        text += "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to any text for a service of "
        text += "your own that checks none"
    return TunnelError(f"the management API: {text}")
