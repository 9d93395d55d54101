"""`/metrics`: a scrape in the format that the client asks for.

Owns the rendering, on a thread of its own that gives way to the dispatchers between two families,
so that a scrape of ten thousand tunnels holds up none of them.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

WORK_SECONDS: Final = 0.000_5
"""How long a scrape works between two pauses."""
PAUSE_SECONDS: Final = 0.000_1
"""How long to pause. It is long enough for a waiting thread to take over."""


class Breather:
    """Counts the time since the last pause."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def breathe(self) -> None:
        """Pause if it is time to."""
        if time.perf_counter() - self._since >= WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._since = time.perf_counter()


GZIP_LEVEL: Final = 1
PART_SAMPLES: Final = 32
_EOF: Final = b"# EOF\n"


class Exposition(NamedTuple):
    """The body and its headers."""

    body: bytes
    content_type: str
    encoding: str | None


def _split(family: Family) -> Iterator[Family]:
    """Parts of at most `PART_SAMPLES`, so that there are pauses within a large family."""
    if len(family.samples) <= PART_SAMPLES:
        yield family
        return
    for start in range(0, len(family.samples), PART_SAMPLES):
        part = copy(family)
        part.samples = family.samples[start : start + PART_SAMPLES]
        yield part


def _without_head(text: bytes) -> bytes:
    """Leave out the lines that describe the family, as they are there once already."""
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text


class _One:
    """A registry of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)


def expose(registry: Collector, accept: str, accept_encoding: str) -> Exposition:
    """Collect and encode.

    Args:
        registry: a registry, or any collector.
        accept: the client's `Accept` header.
        accept_encoding: its `Accept-Encoding` header.
    """
    encode, content_type = choose_encoder(accept)
    breather = Breather()
    # Grouped by family: two runtimes in one registry have the same families.
    families: dict[str, list[bytes]] = {}
    is_open_metrics = content_type.startswith("application/openmetrics-text")
    for family in registry.collect():
        parts = families.setdefault(family.name, [])
        for part in _split(family):
            text = encode(_One(part)).removesuffix(_EOF)
            parts.append(_without_head(text) if parts else text)
            breather.breathe()
    if is_open_metrics:
        families[""] = [_EOF]
    body = b"".join([text for parts in families.values() for text in parts])
    if takes_gzip(accept_encoding):
        return Exposition(gzip.compress(body, GZIP_LEVEL), content_type, "gzip")
    return Exposition(body, content_type, None)


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether the header allows gzip (RFC 9110, section 12.5.3)."""
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name in ("gzip", "*"):
            return not any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
    return False
