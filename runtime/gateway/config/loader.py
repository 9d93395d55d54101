"""Reading a gateway's configuration: all files, all mistakes at once.

Owns the order of the steps: parse, check each table, merge, check what depends on several. Nothing
is started or changed here, so a check and a reload can read what a running gateway does not take.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tunnelfleet.runtime import TcpAddress, parse_address
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from . import fleet
from .devices import NotifyReader
from .files import Document, read_documents
from .fleet import CloudPlace, DemandLimits, OnDemandSettings
from .gateway_table import GatewayTable
from .problems import ConfigProblems, Problem, nearest
from .schema import DefaultKeys, DoorRuleKeys, FileKeys, GatewayKeys, OnDemandKeys
from .secrets import Authorities
from .tunnels import TunnelReader
from .validation import validate


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
            frozenset(each.path for each in documents if not each.text.strip()),
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

    def _gateway(self, documents: Sequence[Document]) -> fleet.GatewaySettings:
        merged = self._merge(documents, "gateway", GatewayKeys)

        def problem(key: str, text: str, *, error: bool = True) -> None:
            # A key that is missing has the line of the table that it is missing in.
            document = merged[key if key in merged else next(iter(merged))][0]
            self._problems.append(document.problem(("gateway", key), text, error=error))

        table = GatewayTable(merged, self._environ, problem)
        settings = table.read()
        self._files |= table.files
        return settings


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


AWS_SERVICES = 3
"""That AWS lets a tunnel have: docs/protocol.md section 6."""
TABLE = "on_demand"


class OnDemandTable:
    """Reads the table.

    Args:
        document: that it is in, or its first key.
        given: its keys that are right, by name.
        problem: tells what is wrong with a key.
    """

    def __init__(
        self, document: Document, given: Mapping[str, Any], problem: Callable[..., None]
    ) -> None:
        self._document = document
        self._given = given
        self._problem = problem

    def read(self, tunnels: TunnelReader) -> OnDemandSettings | None:
        """What it says; None if there are mistakes, which were told.

        Args:
            tunnels: reads what it has in common with tunnels, and `[defaults]`.
        """
        given = self._given
        if importlib.util.find_spec("boto3") is None:
            hint = "it needs boto3, which is not installed; run: pip install 'tunnelfleet[aws]'"
            self._problem("", hint)
            return None
        for key, example in (("things", '["press-*"]'), ("services", '["SSH"]')):
            if key not in given:
                self._problem(key, f"it is missing; write {key} = {example}")
        region = given.get("region") or tunnels.default("region")
        place = CloudPlace(region, given.get("endpoint_url"), given.get("profile"))
        if region is None and place.endpoint_url is None:
            self._problem("region", 'it is missing; write region = "eu-west-1", or endpoint_url')
            return None
        self._check_services()
        tunnel = self._tunnel(tunnels, place)
        if tunnel is None or "things" not in given or "services" not in given:
            return None
        return OnDemandSettings(
            place=place,
            things=tuple(given["things"]),
            services=tuple(given["services"]),
            tunnel=tunnel,
            limits=DemandLimits(
                **{
                    each.name: given[each.name]
                    for each in fields(DemandLimits)
                    if each.name in given
                }
            ),
            keep_on_stop=given.get("keep_on_stop", False),
            tags=dict(given.get("tags") or {}),
        )

    def _check_services(self) -> None:
        services = self._given.get("services", [])
        if len({each.casefold() for each in services}) < len(services):
            self._problem("services", "a service stands twice in it, in whatever case; keep one")
        elif len(services) > AWS_SERVICES and "endpoint_url" not in self._given:
            self._problem("services", f"AWS lets a tunnel have {AWS_SERVICES}; keep so many")

    def _tunnel(self, tunnels: TunnelReader, place: CloudPlace) -> WantedTunnel | None:
        given = self._given
        keys: dict[str, Any] = {key: given[key] for key in ("endpoint", "ca") if key in given}
        if place.endpoint_url is None and "endpoint" not in keys:
            keys["region"] = place.region
        elif "endpoint" not in keys and tunnels.default("endpoint") is None:
            hint = "it is missing; endpoint_url opens tunnels at a service of its own, name that"
            self._problem("endpoint", f'{hint}: endpoint = "wss://tunnels.example.com:8443"')
            return None
        services = dict.fromkeys(given.get("services", ["any"]), "door")
        found = tunnels.source_on_demand(self._document, (TABLE,), {**keys, "services": services})
        return None if found is None else replace(found, client_token=None)
