"""Reading the table `[gateway]`: the settings of the process, and what goes together in them.

Owns what depends on more than one key, and the files that they name: secrets, users, certificates.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunnelfleet.actors.addresses import is_loopback, parse_ip
from tunnelfleet.proto import ConfigError, counted
from tunnelfleet.runtime import TcpAddress, parse_address
from tunnelfleet.runtime.gateway.listening import group_id

from . import fleet
from .door_users import read_users
from .files import Document
from .fleet_tls import FleetFileError, read_fleet_tls
from .paths import admin_socket, state_folder
from .schema import OFF, GatewayKeys
from .secrets import read_deployment_secret, read_secret

SHARDS = 256
"""Into how many parts a fleet is cut, unless its file says otherwise."""
FLEET_KEYS = ("fleet_listen", "fleet_address", "fleet_cert", "fleet_key", "fleet_ca")
"""Of `[gateway]`: all but the address are needed where one of them is."""
STATE_FILE = "state.db"


class GatewayTable:
    """Reads the table.

    Args:
        merged: its keys that are right, each with the document that it is in.
        environ: the environment.
        problem: tells what is wrong with a key; `error=False` for a warning.
    """

    def __init__(
        self,
        merged: Mapping[str, tuple[Document, Any]],
        environ: Mapping[str, str],
        problem: Callable[..., None],
    ) -> None:
        self._merged = merged
        self._given = {key: value for key, (_document, value) in merged.items()}
        self._environ = environ
        self._problem = problem
        self.files: set[Path] = set()
        """What was read."""

    def read(self) -> fleet.GatewaySettings:
        """What it says, as far as it is right."""
        given = self._given
        name = given.get("name", platform.node() or "gateway")
        state = given.get("state")
        folder = state_folder(self._environ, state)
        settings = fleet.GatewaySettings(
            name=name,
            admin=given.get("admin") or f"unix:{admin_socket(self._environ)}",
            admin_mode=int(given.get("admin_mode", "0600"), 8),
            admin_group=given.get("admin_group"),
            admin_hosts=tuple(given.get("admin_hosts", ())),
            metrics_open=given.get("metrics_open", False),
            metrics_hosts=tuple(given.get("metrics_hosts", ())),
            state=state or f"sqlite:///{folder / STATE_FILE}",
            state_folder=folder,
            audit_days=given.get("audit_days", 90.0),
            audit_rows=given.get("audit_rows", 200_000),
            placement=given.get("placement", fleet.STATIC),
            placement_members=given.get("placement_members", 1),
            lease_seconds=given.get("lease_seconds", 10.0),
            shards=given.get("shards", SHARDS),
            workers=given.get("workers", 1),
            connect_rate=given.get("connect_rate", 10.0),
            connect_concurrency=given.get("connect_concurrency", 8),
            drain_seconds=given.get("drain_seconds", 30.0),
            door=given.get("door"),
            client_token_secret_file=self._file("client_token_secret_file"),
            door_users_file=self._file("door_users_file"),
            fleet_address=given.get("fleet_address"),
            fleet_cert=self._file("fleet_cert"),
            fleet_key=self._file("fleet_key"),
            fleet_ca=self._file("fleet_ca"),
        )
        settings = replace(settings, placement_ordinal=self._ordinal(name))
        self._check_placement(settings)
        secret = settings.client_token_secret_file
        if secret is not None:
            self._check_secret(secret)
        settings = self._admin(settings)
        settings = self._door(settings)
        settings = self._fleet(settings)
        return self._metrics(settings)

    def _file(self, key: str) -> Path | None:
        if key not in self._merged:
            return None
        document, text = self._merged[key]
        return document.relative(text)

    def _ordinal(self, name: str) -> int:
        members = self._given.get("placement_members", 1)
        ordinal = self._given.get("placement_ordinal")
        if ordinal is None:
            ordinal = 0 if members == 1 else fleet.ordinal_in(name)
            if ordinal is None:
                hint = f"the name {name!r} ends with no number; write placement_ordinal"
                self._problem("placement_members", hint)
                return 0
        if ordinal >= members:
            key = "placement_ordinal" if "placement_ordinal" in self._given else "placement_members"
            those = f"of {counted(members, 'gateway')} the ordinals are 0 to {members - 1}"
            self._problem(key, f"{those}, not {ordinal}")
            return 0
        if members > 1 and "client_token_secret_file" not in self._given:
            hint = "gateways that share a fleet need the same secret; name its file"
            self._problem("client_token_secret_file", hint)
        return int(ordinal)

    def _check_placement(self, settings: fleet.GatewaySettings) -> None:
        if settings.placement == fleet.STATIC:
            self._check_static()
            return
        for key in ("placement_members", "placement_ordinal"):
            if key in self._given:
                self._problem(key, f'it is for placement = "{fleet.STATIC}"; leave it out')
        if settings.placement != fleet.RAY:
            self._check_shared_fleet(settings)

    def _check_static(self) -> None:
        hint = f'it is for placement = "{fleet.POSTGRES}"; leave it out, or write that'
        for key in ("lease_seconds", "shards"):
            default = GatewayKeys.model_fields[key].default
            if self._given.get(key, default) != default:
                self._problem(key, hint)

    def _check_shared_fleet(self, settings: fleet.GatewaySettings) -> None:
        if not settings.state.startswith("postgresql"):
            hint = 'gateways share the fleet by the state; write state = "postgresql://HOST/DB"'
            self._problem("state" if "state" in self._given else "placement", hint)
        if "client_token_secret_file" not in self._given:
            hint = "gateways that share a fleet need the same secret; name its file"
            self._problem("client_token_secret_file", hint)

    def _check_secret(self, path: Path) -> None:
        key = "client_token_secret_file"
        try:
            _, warning = read_deployment_secret(path)
        except ConfigError as error:
            self._problem(key, str(error))
            return
        if warning:
            self._problem(key, warning, error=False)

    def _admin(self, settings: fleet.GatewaySettings) -> fleet.GatewaySettings:
        token = self._token("admin_token_file")
        address = None if settings.admin == OFF else parse_address(settings.admin)
        if isinstance(address, TcpAddress):
            if "admin_token_file" not in self._merged:
                hint = "whoever reaches it could change tunnels; write admin_token_file too"
                self._problem("admin", f'{hint}, or admin = "unix:PATH"')
            elif not is_loopback(address.host):
                hint = "the token crosses the network without TLS; whoever listens there has it"
                self._problem("admin_token_file", hint, error=False)
        self._check_group(settings)
        return replace(settings, admin_token=token)

    def _check_group(self, settings: fleet.GatewaySettings) -> None:
        """Warn of a group that this machine does not have; where the gateway runs there may be."""
        if settings.admin_group is None:
            return
        try:
            group_id(settings.admin_group)
        except ConfigError as error:
            self._problem("admin_group", str(error), error=False)

    def _token(self, key: str) -> str | None:
        """Return the bearer token in the file that a key names."""
        path = self._file(key)
        if path is None:
            return None
        try:
            token, warning = read_secret(path)
        except ConfigError as error:
            self._problem(key, str(error))
            return None
        self.files.add(path)
        if not token.isascii() or not token.isprintable() or " " in token:
            self._problem(key, f"the token in {path} must be printable ASCII without blanks")
            return None
        if warning:
            self._problem(key, warning, error=False)
        return token

    def _door(self, settings: fleet.GatewaySettings) -> fleet.GatewaySettings:
        address = None if settings.door is None else parse_address(settings.door)
        path = settings.door_users_file
        is_closed = not isinstance(address, TcpAddress) or is_loopback(address.host)
        if path is None:
            if not is_closed:
                hint = f"other machines could reach all tunnels at {address}"
                text = f'{hint}; write door_users_file too, or door = "127.0.0.1:1080"'
                self._problem("door", text)
            return settings
        if not isinstance(address, TcpAddress):
            hint = "it is for a door at a TCP port; at a Unix socket the kernel says who it is"
            self._problem("door_users_file", hint, error=False)
        elif not is_closed:
            hint = "passwords cross the network without TLS; whoever listens there can read them"
            self._problem("door_users_file", hint, error=False)
        try:
            users, warning = read_users(path)
        except ConfigError as error:
            self._problem("door_users_file", str(error))
            return settings
        self.files.add(path)
        if warning:
            self._problem("door_users_file", warning, error=False)
        return replace(settings, door_users=users)

    def _fleet(self, settings: fleet.GatewaySettings) -> fleet.GatewaySettings:
        """What other gateways of the fleet reach this one by."""
        if not self._has_fleet_keys(settings):
            return settings
        address = parse_address(self._given["fleet_listen"])
        assert isinstance(address, TcpAddress)
        if settings.fleet_address is None and is_wildcard(address.host):
            hint = f"other gateways cannot connect to {address.host}"
            text = f"{hint}; write fleet_address, what they reach this one at"
            self._problem("fleet_listen", text)
        files = [settings.fleet_cert, settings.fleet_key, settings.fleet_ca]
        cert, key, ca = (path for path in files if path is not None)
        self.files |= {cert, key, ca}
        try:
            tls, warnings = read_fleet_tls(cert, key, ca, settings.name)
        except FleetFileError as error:
            self._problem(error.key, str(error))
            return settings
        for about, text in warnings.items():
            self._problem(about, text, error=False)
        return replace(settings, fleet_listen=address, fleet_tls=tls)

    def _has_fleet_keys(self, settings: fleet.GatewaySettings) -> bool:
        """Whether they are there, all of them; it is told if they are some, or for nothing."""
        present = [key for key in FLEET_KEYS if key in self._given]
        missing = [key for key in FLEET_KEYS if key not in self._given and key != "fleet_address"]
        if not present:
            return False
        if settings.placement != fleet.POSTGRES:
            hint = f'it is for placement = "{fleet.POSTGRES}", in which gateways know of each other'
            self._problem(present[0], f"{hint}; leave it out, or write that")
            return False
        if missing:
            hint = f"it needs {', '.join(missing)} too"
            self._problem(present[0], f"{hint}: docs/fleet.md says how the files are made")
        return not missing

    def _metrics(self, settings: fleet.GatewaySettings) -> fleet.GatewaySettings:
        text = self._merged["metrics"][1] if "metrics" in self._merged else GatewayKeys().metrics
        address = None if text == OFF else parse_address(text)
        assert address is None or isinstance(address, TcpAddress)
        token = self._token("metrics_token_file")
        is_closed = "metrics_token_file" not in self._merged and not settings.metrics_open
        if address is not None and is_closed and not is_loopback(address.host):
            hint = f"other machines could read {address}; write metrics_token_file too"
            self._problem("metrics", f"{hint}, or metrics_open = true")
        if address is not None and token is not None and not is_loopback(address.host):
            hint = "the token crosses the network without TLS; whoever listens there can read it"
            self._problem("metrics_token_file", hint, error=False)
        return replace(settings, metrics=address, metrics_token=token)


def is_wildcard(host: str) -> bool:
    """Whether a listener at this host listens at all addresses of its machine."""
    address = parse_ip(host)
    return address is not None and address.is_unspecified
