"""What stands around a service that the command line starts: state, management API, notifications.

Owns which parts the options ask for, and the order in which they start and end. Must not know how
they work. Parts that need an extra are imported only when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tunnelfleet.actors.addresses import TcpAddress, is_loopback, parse_address
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.handshake import AWS_CONNECTS_PER_SECOND
from tunnelfleet.runtime.service.names import certificate_names

if TYPE_CHECKING:
    from tunnelfleet.runtime.service.management import ManagementServer
    from tunnelfleet.runtime.service.management.notify import MqttNotifier
    from tunnelfleet.runtime.service.state import StateStore
    from tunnelfleet.runtime.service.watch import ServiceWatch


def parse_listen(option: str, text: str, example: str) -> tuple[str, int]:
    """Return host and port of an option that takes both. Raises ConfigError."""
    try:
        address = parse_address(text, default_host="")
    except ConfigError:
        address = None
    if not isinstance(address, TcpAddress) or not address.host:
        raise ConfigError(f"{option} takes HOST:PORT, such as {example}, not {text!r}")
    return address.host, address.port


DEFAULT_REGION: Final = "us-east-1"
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The options of what stands around a service.

    Attributes:
        state: folder of the state; None keeps none.
        management: where the management API listens; None: nowhere.
        credentials: file of who may call it; None lets anybody, on loopback.
        region: what stands in ARNs and notifications; None: us-east-1.
        aws_limits: whether AWS's limits hold.
        max_tunnels: open at once by the management API.
        mqtt: URL of the broker that takes notifications; None notifies nobody.
        mqtt_ca: PEM of what to trust of it.
        mqtt_cert: PEM of a certificate for it.
        mqtt_key: PEM of its key.
        admin: where `/metrics` and `/healthz` are; None: nowhere.
        admin_open: whether that may be beyond this machine.
        chaos: whether faults can be caused there.
        chaos_token_file: file of the token that this needs; None needs none, on loopback.

    Raises:
        ConfigError: they do not go together, or something is not installed.
    """

    state: Path | None = None
    management: tuple[str, int] | None = None
    credentials: Path | None = None
    region: str | None = None
    aws_limits: bool = False
    max_tunnels: int | None = None
    mqtt: str | None = None
    mqtt_ca: Path | None = None
    mqtt_cert: Path | None = None
    mqtt_key: Path | None = None
    admin: tuple[str, int] | None = None
    admin_open: bool = False
    chaos: bool = False
    chaos_token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.admin is None and (self.admin_open or self.chaos):
            raise ConfigError("--admin-open, --chaos-api: only with --admin HOST:PORT")
        if self.chaos_token_file is not None and not self.chaos:
            raise ConfigError("--chaos-token-file: only with --chaos-api")
        if self.mqtt is None:
            self._refuse_options_of_mqtt()
        if self.management is None:
            self._refuse_options_of_management()
            return
        if self.region is not None and not _REGION.fullmatch(self.region):
            raise ConfigError(f"--region takes a name such as eu-west-1, not {self.region!r}")
        from tunnelfleet.runtime.service.management.model import check_installed  # noqa: PLC0415

        check_installed()

    def _refuse_options_of_management(self) -> None:
        given = {
            "--credentials": self.credentials,
            "--region": self.region,
            "--aws-limits": self.aws_limits or None,
            "--max-tunnels": self.max_tunnels,
            "--mqtt": self.mqtt,
        }
        _refuse_given(given, "--management HOST:PORT")

    def _refuse_options_of_mqtt(self) -> None:
        given = {
            "--mqtt-ca": self.mqtt_ca,
            "--mqtt-cert": self.mqtt_cert,
            "--mqtt-key": self.mqtt_key,
        }
        _refuse_given(given, "--mqtt URL")

    @property
    def connects_per_second(self) -> float | None:
        """How many clients may connect; None: as many as like."""
        return AWS_CONNECTS_PER_SECOND if self.aws_limits else None

    def certificate_names(self, listens_on: str) -> Sequence[str]:
        """Return what a made certificate has to be for besides the service's own names."""
        found: list[str] = []
        for address in (self.management, self.admin):
            if address is not None and not is_loopback(address[0]) and address[0] != listens_on:
                found += certificate_names(address[0], ())
        return found

    def open_state(self) -> StateStore | None:
        """Open the state, if there is to be one.

        Raises:
            ConfigError: it cannot be used.
            TunnelError: another service has it.
        """
        if self.state is None:
            return None
        from tunnelfleet.runtime.service.state import StateStore  # noqa: PLC0415

        return StateStore(self.state)


def _refuse_given(given: Mapping[str, object], needed: str) -> None:
    """Refuse options that nobody heeds without another one."""
    if named := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(named)}: only with {needed}")


class Surroundings:
    """The parts around one service; a context manager, entered before the service starts.

    Args:
        service: the service.
        store: its state, if it is kept.
        options: what there is to be.

    Attributes:
        management: the management API, if there is one.
        watch: the pages for who watches the service, if they are served.

    Raises:
        ConfigError: the options cannot be carried out.
    """

    def __init__(self, service: TunnelService, store: StateStore | None, options: Around) -> None:
        self.management: ManagementServer | None = None
        self.watch: ServiceWatch | None = None
        self._notifier: MqttNotifier | None = None
        self._stack = ExitStack()
        if options.management is not None:
            self._prepare_management(service, store, options)
        if options.admin is not None:
            self._prepare_watch(service, store, options)

    def start(self) -> None:
        """Listen; the service runs. Raises ConfigError if an address cannot be had."""
        # They end the other way round: what the API was told last may still be sent.
        if self.watch is not None:
            self.watch.start()
            self._stack.callback(self.watch.stop)
        if self._notifier is not None:
            self._notifier.start()
            self._stack.callback(self._notifier.stop)
        if self.management is not None:
            self.management.start()
            self._stack.callback(self.management.stop)

    def urls(self) -> dict[str, str]:
        """Return where its parts listen, by name."""
        urls: dict[str, str] = {}
        if self.management is not None:
            urls["management"] = self.management.url
        if self.watch is not None:
            urls["admin"] = self.watch.url
        return urls

    def stop(self) -> None:
        """Answer what is under way, and end. Safe to call twice."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def _prepare_management(
        self, service: TunnelService, store: StateStore | None, options: Around
    ) -> None:
        from tunnelfleet.runtime.service.management import (  # noqa: PLC0415 (an extra)
            ManagementLimits,
            ManagementServer,
            aws_limits,
            load_credentials,
        )
        from tunnelfleet.runtime.service.management.notify import (  # noqa: PLC0415 (an extra)
            MqttNotifier,
            parse_broker,
        )

        assert options.management is not None
        host, port = options.management
        credentials = None if options.credentials is None else load_credentials(options.credentials)
        most = {} if options.max_tunnels is None else {"open_tunnels": options.max_tunnels}
        if options.mqtt is not None:
            broker = parse_broker(
                options.mqtt,
                ca=options.mqtt_ca,
                certificate=options.mqtt_cert,
                private_key=options.mqtt_key,
            )
            self._notifier = MqttNotifier(broker, options.region or DEFAULT_REGION)
        self.management = ManagementServer(
            service,
            host=host,
            port=port,
            credentials=credentials,
            region=options.region or DEFAULT_REGION,
            limits=aws_limits(**most) if options.aws_limits else ManagementLimits(**most),
            keeper=store,
            notifier=self._notifier,
        )

    def _prepare_watch(
        self, service: TunnelService, store: StateStore | None, options: Around
    ) -> None:
        from tunnelfleet.runtime.service import watch  # noqa: PLC0415 (only when asked)

        assert options.admin is not None
        management, notifier = self.management, self._notifier
        source = watch.ServiceFigures(
            service.stats,
            None if management is None else management.calls,
            None if notifier is None else notifier.counts,
            None if store is None else lambda: (store.waiting, store.failure is not None),
        )
        self.watch = watch.ServiceWatch(
            service,
            source,
            host=options.admin[0],
            port=options.admin[1],
            open_to_all=options.admin_open,
            chaos=options.chaos,
            chaos_token=_read_token(options.chaos_token_file),
        )


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"cannot read the token {path}: {why}") from error
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"the token in {path} must be printable ASCII without blanks")
    return token
