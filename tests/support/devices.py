"""The rig of devices: a broker, a service with its management API, and the gateway of the devices.

The gateway is a real `tunnelfleet up`, the service a real `tunnelfleet service`; the operators'
ends are tunnels of this process.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

from tests.support.aws_service import ServiceProcess, aws_client
from tests.support.gateway import UpProcess, seen_in_time, up
from tests.support.mosquitto import Mosquitto, publish, running_mosquitto
from tests.support.rig import FAST_LIMITS, Rig, connect, echo
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TcpAddress, TunnelConfig, TunnelState, parse_address
from tunnelfleet.runtime.gateway.config import ensure_secret
from tunnelfleet.runtime.gateway.store import AuditQuery, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tunnelfleet.runtime import Tunnel

REGION = "eu-west-1"
WAIT_SECONDS = 60.0


class DevicesRig:
    """A context manager.

    Args:
        folder: for files and state.
        things: that the gateway has.
        services: of `[[notify]]`, as TOML; SSH is an echo server unless they are given.
    """

    def __init__(self, folder: Path, things: Sequence[str], services: str = "") -> None:
        self.folder = folder
        self.things = list(things)
        self.services = services
        self.more_keys = ""
        self._rig = Rig(tls=False)
        self._stack = contextlib.ExitStack()
        self._ports: tuple[str, ...] = ("127.0.0.1:0", "127.0.0.1:0")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._rig)
            for name in ("mqtt", "service", "state"):
                (self.folder / name).mkdir()
            self.broker: Mosquitto = stack.enter_context(
                running_mosquitto(self.folder / "mqtt", keeps=True)
            )
            self.service = self.start_service()
            stack.callback(lambda: self.service.close())
            self.aws = aws_client(self.service.url, region_name=REGION)
            stack.callback(self.aws.close)
            echo_address = self._rig.backends.echo().address
            self.services = self.services or f'{{ SSH = "{echo_address}" }}'
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    # -- the service

    def start_service(self) -> ServiceProcess:
        """Run it with the state of its last life, at its addresses."""
        listen, management = self._ports
        self.service = ServiceProcess(
            *("--plain", "--listen", listen, "--management", management, "--region", REGION),
            *("--state", str(self.folder / "service")),
            *("--mqtt", f"mqtt://127.0.0.1:{self.broker.port}"),
        )
        self._ports = tuple(
            str(url).rpartition("/")[2] for url in (self.service.endpoint, self.service.url)
        )
        return self.service

    def open_tunnel(self, thing: str, *services: str) -> dict[str, Any]:
        """Open a tunnel to a device; its thing is told of it."""
        asked = {"thingName": thing, "services": list(services or ("SSH",))}
        opened: dict[str, Any] = self.aws.open_tunnel(destinationConfig=asked)
        return opened

    def rotate(self, opened: dict[str, Any]) -> dict[str, Any]:
        """Give the device another token."""
        rotated: dict[str, Any] = self.aws.rotate_tunnel_access_token(
            tunnelId=opened["tunnelId"], clientMode="DESTINATION"
        )
        return rotated

    def tell(self, thing: str, *tokens: str) -> None:
        """Publish notifications, as the service has or has not done."""
        keys = {"clientMode": "destination", "region": REGION, "services": ["SSH"]}
        payloads = [json.dumps({**keys, "clientAccessToken": token}).encode() for token in tokens]
        publish(self.broker, f"$aws/things/{thing}/tunnels/notify", *payloads)

    # -- the gateway of the devices

    def write(self) -> Path:
        """Write its file."""
        path = self.folder / "devices.toml"
        text = f"""
[gateway]
name = "gw"
metrics = "127.0.0.1:0"
connect_rate = 500
drain_seconds = 5
[[notify]]
broker = "mqtt://127.0.0.1:{self.broker.port}"
things = {json.dumps(self.things)}
services = {self.services}
endpoint = "{self.service.endpoint}"
restart = {{ min_seconds = 0.05, max_seconds = 0.5 }}
{self.more_keys}
"""
        aside = path.with_suffix(".new")
        aside.write_text(text)
        aside.rename(path)
        return path

    @contextlib.contextmanager
    def up(self) -> Iterator[UpProcess]:
        """Run it while the block runs; what it is told from now on arrives."""
        with up(self.write(), self.folder / "state") as gateway:
            self.wait_subscribed(gateway)
            yield gateway

    def wait_subscribed(self, gateway: UpProcess, times: int = 1) -> None:
        """Wait until it has been granted all things so many times."""

        def granted() -> int:
            return sum(each["things"] for each in gateway.events("broker_subscribed"))

        seen_in_time(lambda: granted() >= times * len(self.things), "subscribed", WAIT_SECONDS)

    @contextlib.contextmanager
    def state(self) -> Iterator[Store]:
        """The state of the gateway, opened by the test."""
        folder = self.folder / "state"
        secret, _warning = ensure_secret(None, folder)
        store = Store(f"sqlite:///{folder / 'state.db'}", gateway="gw", secret=secret)
        store.open()
        try:
            yield store
        finally:
            store.close()

    def kept(self) -> set[str]:
        """The tokens in the state."""
        with self.state() as store:
            return {each.notification.access_token for each in store.load_devices()}

    def denials(self) -> list[tuple[str, str]]:
        """Thing and service of each refusal in the audit."""
        with self.state() as store:
            rows = store.audit(AuditQuery(kind="denied"))
        return [(row["tunnel"], row["service_id"]) for row in rows]

    # -- operators

    def is_connected(self, opened: dict[str, Any]) -> bool:
        """Whether the service says that the device is there."""
        described = self.aws.describe_tunnel(tunnelId=opened["tunnelId"])["tunnel"]
        found: str = described["destinationConnectionState"]["status"]
        return found == "CONNECTED"

    def wait_connected(self, *opened: dict[str, Any]) -> None:
        """Wait until all devices are there."""
        left = list(opened)

        def all_there() -> bool:
            left[:] = [each for each in left if not self.is_connected(each)]
            return not left

        seen_in_time(all_there, "the devices are connected", WAIT_SECONDS)

    def operator(self, opened: dict[str, Any]) -> Tunnel:
        """An operator's end of a tunnel."""
        config = TunnelConfig(
            name=f"operator {opened['tunnelId']}",
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse(self.service.endpoint),
            access_token=opened["sourceAccessToken"],
            services={"SSH": TcpAddress("127.0.0.1", 0)},
            limits=FAST_LIMITS,
        )
        tunnel = self._rig.runtime.open_tunnel(config)
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        return tunnel

    def assert_echoes(self, operator: Tunnel, size_bytes: int = 10_000) -> None:
        """Bytes go through to the device's application and back."""
        seen_in_time(lambda: bool(operator.status().listening.get("SSH")), "the operator listens")
        address = parse_address(operator.status().listening["SSH"][0])
        with connect(address) as sock:
            assert echo(sock, b"x" * size_bytes) == b"x" * size_bytes
