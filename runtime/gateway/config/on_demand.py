"""Which things get a tunnel when somebody asks, from whom, and how many: what is run by.

Owns the data, which things are meant by a name, and what single values may be. The table that says
it is read in `demand_table`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tunnelfleet.proto import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

__all__ = [
    "MAX_THING_CHARACTERS",
    "CloudPlace",
    "OnDemandSettings",
]

MAX_THING_CHARACTERS = 128
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_PATTERN = re.compile(r"(?:[a-zA-Z0-9:_*?-]|\[!?[a-zA-Z0-9:_-]+\]){1,256}")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Whose OpenTunnel it is: what a client of boto3 is made of.

    Attributes:
        region: of AWS; None with an `endpoint_url` that needs none.
        endpoint_url: of another management API than AWS's own.
        profile: whose credentials; None for what boto3 finds.
    """

    region: str | None
    endpoint_url: str | None = None
    profile: str | None = None

    def __str__(self) -> str:
        return self.endpoint_url or f"AWS in {self.region}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandLimits:
    """How long tunnels on demand live, and how many there may be; see `schema.OnDemandKeys`."""

    wait_seconds: float = 60.0
    idle_seconds: float = 900.0
    lifetime_minutes: int = 720
    max_open: int = 50
    max_opens_per_hour: int = 100
    opens_per_second: float = 1.0
    negative_seconds: float = 30.0

    @property
    def lifetime_seconds(self) -> float:
        """How long a tunnel may be open."""
        return self.lifetime_minutes * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandSettings:
    """The table, with its defaults in place; see `schema.OnDemandKeys`.

    `tunnel` is what all tunnels on demand have in common; its name and its tokens stand for theirs.
    """

    place: CloudPlace
    things: tuple[str, ...]
    services: tuple[str, ...]
    tunnel: WantedTunnel = field(repr=False)
    limits: DemandLimits = DemandLimits()
    keep_on_stop: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    def thing_of(self, text: str) -> str | None:
        """The thing that is meant by a name, if it may have a tunnel; None if not.

        `*` stands for no colon, so that `press-4:SSH` is not taken for a thing. Things that are
        listed without wildcards are found in whatever case: browsers write names in lower case.
        """
        if _THING.fullmatch(text) is None:
            return None
        colons = text.count(":")
        for pattern in self.things:
            if pattern.count(":") == colons and fnmatchcase(text, pattern):
                return text
        folded = text.casefold()
        found = {each for each in self.things if each.casefold() == folded}
        return found.pop() if len(found) == 1 and not _WILD.search(text) else None


def check_thing_pattern(text: str) -> None:
    """Raise ConfigError if no thing can have such a name."""
    if _PATTERN.fullmatch(text) is None:
        raise ConfigError(
            "a thing has letters, digits, : _ and - in its name; * ? and [...] stand for any"
        )


def check_endpoint_url(text: str) -> None:
    """Raise ConfigError if this is no URL of a management API."""
    if re.fullmatch(r"https?://[^\s/?#@]+/?", text) is None:
        raise ConfigError("write http://HOST:PORT or https://HOST[:PORT], without user and path")
