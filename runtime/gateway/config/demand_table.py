"""Reading the table `[on_demand]`: what depends on more than one of its keys.

A tunnel on demand is a source with the keys of `[defaults]`, for which nothing listens: the front
doors are the way to it. Owns no value; it opens nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .fleet import CloudPlace, DemandLimits, OnDemandSettings

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .files import Document
    from .tunnels import TunnelReader


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
