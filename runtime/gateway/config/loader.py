"""Reading a gateway's configuration: all files, all mistakes at once.

Owns the order of the steps: parse, check each table, merge, check what depends on several. Nothing
is started or changed here, so a check and a reload can read what a running gateway does not take.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunnelfleet.actors.addresses import is_loopback, parse_ip
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TcpAddress, parse_address
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from . import fleet
from .demand_table import OnDemandTable
from .devices import NotifyReader
from .door_users import read_users
from .files import Document, read_documents
from .fleet_tls import FleetFileError, read_fleet_tls
from .paths import admin_socket, state_folder
from .problems import ConfigProblems, Problem, nearest
from .schema import OFF, DefaultKeys, DoorRuleKeys, FileKeys, GatewayKeys, OnDemandKeys
from .secrets import MIN_SECRET_BYTES, Authorities, read_secret
from .tunnels import TunnelReader, validate

SHARDS = 256
"""Into how many parts a fleet is cut, unless its file says otherwise."""
FLEET_KEYS = ("fleet_listen", "fleet_address", "fleet_cert", "fleet_key", "fleet_ca")
"""Of `[gateway]`: all but the address are needed where one of them is."""


def load(
    paths: Sequence[Path],
    environ: Mapping[str, str] | None = None,
    authorities: Authorities | None = None,
) -> fleet.FleetConfig:
    """Read a configuration.

    Args:
        paths: files and folders, as the user named them.
        environ: the environment; None is the process's own.
        authorities: keeps TLS contexts over reloads.

    Raises:
        ConfigProblems: there are mistakes: all of them.
    """
    loader = _Loader(os.environ if environ is None else environ, authorities or Authorities())
    return loader.load(paths)


def read_tunnel(
    entry: Mapping[str, Any], authorities: Authorities, *, place: str = "request"
) -> WantedTunnel:
    """Read one tunnel that does not come from a file: the keys are those of `[[tunnel]]`.

    Its access token must be in the entry: whoever may add tunnels may not read files with it, or
    the environment. `authorities` must not be those of a `load` that goes on.

    Args:
        entry: the keys and values.
        authorities: keeps TLS contexts.
        place: stands for the file in messages, and as the tunnel's `place`.

    Raises:
        ConfigProblems: there are mistakes: all of them.
    """
    authorities.begin()
    document = Document(Path(place), "", {"tunnel": [dict(entry)]})
    reader = TunnelReader({}, {}, authorities)
    name = entry.get("name")
    for key in ("access_token_file", "access_token_env"):
        if key in entry:
            hint = "only files can name it; give access_token itself"
            known = name if isinstance(name, str) else None
            raise ConfigProblems([document.problem(("tunnel", 0, key), hint, tunnel=known)])
    reader.read(document, 0, dict(entry))
    errors = [_for_request(problem) for problem in reader.problems if problem.is_error]
    if errors:
        raise ConfigProblems(errors)
    (tunnel,) = reader.tunnels.values()
    return tunnel


def _for_request(problem: Problem) -> Problem:
    """Return the same mistake for somebody who can give a token in one way alone."""
    table, _, key = problem.key.rpartition(".")
    if key != "access_token_file":
        return problem
    return replace(problem, key=f"{table}.access_token", text="it is missing; give the token")


MAX_TUNNELS = 20_000
"""The most tunnels of one configuration; a process is built for 10,000."""
STATE_FILE = "state.db"


class _Loader:
    def __init__(self, environ: Mapping[str, str], authorities: Authorities) -> None:
        self._environ = environ
        self._authorities = authorities
        self._problems: list[Problem] = []
        self._files: set[Path] = set()

    def load(self, paths: Sequence[Path]) -> fleet.FleetConfig:
        self._authorities.begin()
        documents, self._problems = read_documents(paths)
        for document in documents:
            self._check_top(document)
        gateway = self._gateway(documents)
        reader = TunnelReader(
            self._merge(documents, "defaults", DefaultKeys), self._environ, self._authorities
        )
        for document in documents:
            for number, entry in enumerate(_list(document.data.get("tunnel"))):
                reader.read(document, number, entry)
        rules = self._door_rules(documents, gateway)
        notify = self._notify(documents, gateway, reader)
        on_demand = self._on_demand(documents, reader)
        self._problems += reader.problems
        if len(reader.tunnels) > MAX_TUNNELS:
            hint = f"there are {len(reader.tunnels)} tunnels; at most {MAX_TUNNELS} are possible"
            self._problems.append(documents[0].problem(("tunnel",), hint))
        problems = self._sorted(documents)
        if any(problem.is_error for problem in problems):
            raise ConfigProblems(problems)
        self._authorities.forget_others()
        read = {document.path for document in documents}
        files = read | self._files | reader.files | notify.files | self._authorities.files
        return fleet.FleetConfig(
            gateway,
            reader.tunnels,
            rules,
            tuple(problems),
            frozenset(files | set(paths)),
            notify=tuple(notify.sections),
            on_demand=on_demand,
        )

    def _sorted(self, documents: Sequence[Document]) -> list[Problem]:
        order = {document.name: number for number, document in enumerate(documents)}
        # What `${...}` is in is wrong for another reason too, often: one message a key is enough.
        found: dict[tuple[str, int, str], Problem] = {}
        for problem in self._problems:
            key = (problem.file, problem.line, problem.key)
            if key not in found or (problem.is_error and not found[key].is_error):
                found[key] = problem
        return sorted(found.values(), key=lambda each: (order.get(each.file, -1), each.line))

    # -- tables

    def _check_top(self, document: Document) -> None:
        for key, value in document.data.items():
            if key not in FileKeys.model_fields:
                hint = f"there is no such table; {nearest(key, FileKeys.model_fields)}"
                self._problems.append(document.problem((key,), hint))
            elif key in ("tunnel", "door_rule", "notify") and not isinstance(value, list):
                hint = f"there can be several; write [[{key}]] with two brackets"
                self._problems.append(document.problem((key,), hint))

    def _merge(
        self,
        documents: Sequence[Document],
        table: str,
        model: type[GatewayKeys | DefaultKeys | OnDemandKeys],
    ) -> dict[str, tuple[Document, Any]]:
        """Return the keys of a table that may stand in several files, each key in one of them."""
        merged: dict[str, tuple[Document, Any]] = {}
        for document in documents:
            if table not in document.data:
                continue
            values, _bad = validate(model, document, (table,), document.data[table], self._problems)
            for key, value in (values or {}).items():
                if key in merged:
                    place = merged[key][0].place((table, key))
                    hint = f"it is set in {place} too; keep one of the two"
                    self._problems.append(document.problem((table, key), hint))
                else:
                    merged[key] = (document, value)
        return merged

    def _door_rules(
        self, documents: Sequence[Document], gateway: fleet.GatewaySettings
    ) -> tuple[fleet.DoorRule, ...]:
        rules = []
        for document in documents:
            for number, entry in enumerate(_list(document.data.get("door_rule"))):
                rule = self._door_rule(document, ("door_rule", number), entry, gateway)
                rules += [] if rule is None else [rule]
        return tuple(rules)

    def _door_rule(
        self, document: Document, at: tuple[str, int], entry: object, gateway: fleet.GatewaySettings
    ) -> fleet.DoorRule | None:
        values, bad = validate(DoorRuleKeys, document, at, entry, self._problems)
        if values is None or bad:
            return None
        tunnels = values.get("tunnels", [])
        names = [tunnels] if isinstance(tunnels, str) else tunnels
        users, services = values.get("users", []), values.get("services", [])
        door = None if gateway.door is None else parse_address(gateway.door)
        if users and isinstance(door, TcpAddress) and gateway.door_users_file is None:
            hint = f"nobody has a name at the door {door}, so there it lets nobody in"
            text = f'{hint}; write door_users_file, or door = "unix:PATH"'
            self._problems.append(document.problem((*at, "users"), text, error=False))
        return fleet.DoorRule(tuple(users), tuple(names), tuple(services))

    def _notify(
        self, documents: Sequence[Document], gateway: fleet.GatewaySettings, tunnels: TunnelReader
    ) -> NotifyReader:
        reader = NotifyReader(tunnels, gateway.name)
        for document in documents:
            for number, entry in enumerate(_list(document.data.get("notify"))):
                reader.read(document, number, entry)
                if gateway.placement_members > 1 or gateway.placement == fleet.POSTGRES:
                    hint = "each gateway of a shared fleet would open the same tunnels"
                    text = f"{hint}; give the devices to a gateway that shares none"
                    reader.problems.append(document.problem(("notify", number), text))
        self._problems += reader.problems
        return reader

    def _on_demand(
        self, documents: Sequence[Document], tunnels: TunnelReader
    ) -> fleet.OnDemandSettings | None:
        holders = [document for document in documents if "on_demand" in document.data]
        if not holders:
            return None
        before = len(self._problems)
        merged = self._merge(documents, "on_demand", OnDemandKeys)

        def problem(key: str, text: str) -> None:
            document = merged[key][0] if key in merged else holders[0]
            path = ("on_demand", key) if key else ("on_demand",)
            self._problems.append(document.problem(path, text))

        if len(self._problems) > before:
            # What is missing may be one of those that are wrong.
            return None
        given = {key: value for key, (_document, value) in merged.items()}
        return OnDemandTable(holders[0], given, problem).read(tunnels)

    # -- the table of the gateway

    def _gateway(self, documents: Sequence[Document]) -> fleet.GatewaySettings:
        merged = self._merge(documents, "gateway", GatewayKeys)
        given = {key: value for key, (_document, value) in merged.items()}

        def problem(key: str, text: str, *, error: bool = True) -> None:
            # A key that is missing has the line of the table that it is missing in.
            document = merged[key if key in merged else next(iter(merged))][0]
            self._problems.append(document.problem(("gateway", key), text, error=error))

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
            client_token_secret_file=self._file(merged, "client_token_secret_file"),
            door_users_file=self._file(merged, "door_users_file"),
            fleet_address=given.get("fleet_address"),
            fleet_cert=self._file(merged, "fleet_cert"),
            fleet_key=self._file(merged, "fleet_key"),
            fleet_ca=self._file(merged, "fleet_ca"),
        )
        settings = replace(settings, placement_ordinal=self._ordinal(given, name, problem))
        self._check_placement(settings, given, problem)
        secret = settings.client_token_secret_file
        if secret is not None:
            self._check_secret(secret, problem)
        settings = self._admin(settings, merged, problem)
        settings = self._door(settings, problem)
        settings = self._fleet(settings, given, problem)
        return self._metrics(settings, merged, problem)

    def _file(self, merged: Mapping[str, tuple[Document, Any]], key: str) -> Path | None:
        if key not in merged:
            return None
        document, text = merged[key]
        return document.relative(text)

    def _ordinal(self, given: Mapping[str, Any], name: str, problem: Any) -> int:
        members = given.get("placement_members", 1)
        ordinal = given.get("placement_ordinal")
        if ordinal is None:
            ordinal = 0 if members == 1 else fleet.ordinal_in(name)
            if ordinal is None:
                hint = f"the name {name!r} ends with no number; write placement_ordinal"
                problem("placement_members", hint)
                return 0
        if ordinal >= members:
            key = "placement_ordinal" if "placement_ordinal" in given else "placement_members"
            problem(
                key, f"of {members} gateways the ordinals are 0 to {members - 1}, not {ordinal}"
            )
            return 0
        if members > 1 and "client_token_secret_file" not in given:
            hint = "gateways that share a fleet need the same secret; name its file"
            problem("client_token_secret_file", hint)
        return int(ordinal)

    def _check_placement(
        self, settings: fleet.GatewaySettings, given: Mapping[str, Any], problem: Any
    ) -> None:
        if settings.placement == fleet.STATIC:
            hint = f'it is for placement = "{fleet.POSTGRES}"; leave it out, or write that'
            fields = GatewayKeys.model_fields
            for key in ("lease_seconds", "shards"):
                if given.get(key, fields[key].default) != fields[key].default:
                    problem(key, hint)
        else:
            for key in ("placement_members", "placement_ordinal"):
                if key in given:
                    problem(key, f'it is for placement = "{fleet.STATIC}"; leave it out')
            if settings.placement != fleet.RAY:
                self._check_shared_fleet(settings, given, problem)

    def _check_shared_fleet(
        self, settings: fleet.GatewaySettings, given: Mapping[str, Any], problem: Any
    ) -> None:
        if not settings.state.startswith("postgresql"):
            hint = 'gateways share the fleet by the state; write state = "postgresql://HOST/DB"'
            problem("state" if "state" in given else "placement", hint)
        if "client_token_secret_file" not in given:
            hint = "gateways that share a fleet need the same secret; name its file"
            problem("client_token_secret_file", hint)

    def _check_secret(self, path: Path, problem: Any) -> None:
        key = "client_token_secret_file"
        try:
            secret, warning = read_secret(path)
        except ConfigError as error:
            problem(key, f"{error}; make one with: openssl rand -hex 32")
            return
        if len(secret) < MIN_SECRET_BYTES:
            hint = f"the secret has {len(secret)} bytes, and needs at least {MIN_SECRET_BYTES}"
            problem(key, f"{hint}; make one with: openssl rand -hex 32")
        if warning:
            problem(key, warning, error=False)

    def _admin(
        self, settings: fleet.GatewaySettings, merged: Mapping[str, Any], problem: Any
    ) -> fleet.GatewaySettings:
        token = self._token(merged, "admin_token_file", problem)
        address = None if settings.admin == OFF else parse_address(settings.admin)
        if isinstance(address, TcpAddress):
            if "admin_token_file" not in merged:
                hint = "whoever reaches it could change tunnels; write admin_token_file too"
                problem("admin", f'{hint}, or admin = "unix:PATH"')
            elif not is_loopback(address.host):
                hint = "the token crosses the network without TLS; whoever listens there has it"
                problem("admin_token_file", hint, error=False)
        return replace(settings, admin_token=token)

    def _token(self, merged: Mapping[str, Any], key: str, problem: Any) -> str | None:
        """Return the bearer token in the file that a key names."""
        path = self._file(merged, key)
        if path is None:
            return None
        try:
            token, warning = read_secret(path)
        except ConfigError as error:
            problem(key, str(error))
            return None
        self._files.add(path)
        if not token.isprintable() or " " in token:
            problem(key, f"the token in {path} must be printable ASCII without blanks")
            return None
        if warning:
            problem(key, warning, error=False)
        return token

    def _door(self, settings: fleet.GatewaySettings, problem: Any) -> fleet.GatewaySettings:
        address = None if settings.door is None else parse_address(settings.door)
        path = settings.door_users_file
        is_closed = not isinstance(address, TcpAddress) or is_loopback(address.host)
        if path is None:
            if not is_closed:
                hint = f"other machines could reach all tunnels at {address}"
                problem("door", f'{hint}; write door_users_file too, or door = "127.0.0.1:1080"')
            return settings
        if not isinstance(address, TcpAddress):
            hint = "it is for a door at a TCP port; at a Unix socket the kernel says who it is"
            problem("door_users_file", hint, error=False)
        elif not is_closed:
            hint = "passwords cross the network without TLS; whoever listens there can read them"
            problem("door_users_file", hint, error=False)
        try:
            users, warning = read_users(path)
        except ConfigError as error:
            problem("door_users_file", str(error))
            return settings
        self._files.add(path)
        if warning:
            problem("door_users_file", warning, error=False)
        return replace(settings, door_users=users)

    def _fleet(
        self, settings: fleet.GatewaySettings, given: Mapping[str, Any], problem: Any
    ) -> fleet.GatewaySettings:
        """What other gateways of the fleet reach this one by."""
        present = [key for key in FLEET_KEYS if key in given]
        if not present:
            return settings
        if settings.placement != fleet.POSTGRES:
            hint = f'it is for placement = "{fleet.POSTGRES}", in which gateways know of each other'
            problem(present[0], f"{hint}; leave it out, or write that")
            return settings
        missing = [key for key in FLEET_KEYS if key not in given and key != "fleet_address"]
        if missing:
            hint = f"it needs {', '.join(missing)} too"
            problem(present[0], f"{hint}: docs/fleet.md says how the files are made")
            return settings
        address = parse_address(given["fleet_listen"])
        assert isinstance(address, TcpAddress)
        if settings.fleet_address is None and is_wildcard(address.host):
            hint = f"other gateways cannot connect to {address.host}"
            problem("fleet_listen", f"{hint}; write fleet_address, what they reach this one at")
        files = [settings.fleet_cert, settings.fleet_key, settings.fleet_ca]
        cert, key, ca = (path for path in files if path is not None)
        self._files |= {cert, key, ca}
        try:
            tls, warning = read_fleet_tls(cert, key, ca, settings.name)
        except FleetFileError as error:
            problem(error.key, str(error))
            return settings
        if warning:
            problem("fleet_key", warning, error=False)
        return replace(settings, fleet_listen=address, fleet_tls=tls)

    def _metrics(
        self, settings: fleet.GatewaySettings, merged: Mapping[str, Any], problem: Any
    ) -> fleet.GatewaySettings:
        text = merged["metrics"][1] if "metrics" in merged else GatewayKeys().metrics
        address = None if text == OFF else parse_address(text)
        assert address is None or isinstance(address, TcpAddress)
        token = self._token(merged, "metrics_token_file", problem)
        is_closed = "metrics_token_file" not in merged and not settings.metrics_open
        if address is not None and is_closed and not is_loopback(address.host):
            hint = f"other machines could read {address}; write metrics_token_file too"
            problem("metrics", f"{hint}, or metrics_open = true")
        if address is not None and token is not None and not is_loopback(address.host):
            hint = "the token crosses the network without TLS; whoever listens there can read it"
            problem("metrics_token_file", hint, error=False)
        return replace(settings, metrics=address, metrics_token=token)


def is_wildcard(host: str) -> bool:
    """Whether a listener at this host listens at all addresses of its machine."""
    address = parse_ip(host)
    return address is not None and address.is_unspecified


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
