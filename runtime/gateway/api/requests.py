"""What clients send: bodies, queries and conditions, read and checked.

Owns the limits of a body and the words for what is wrong with one. No message repeats a value.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import ETag, web

from tunnelfleet.proto.text import require_whole_characters

from .operations import ApiProblem, ProblemKind

MAX_BODY_BYTES = 256 * 1024
"""The longest body; an entry of a tunnel has a few hundred bytes."""
BODY_SECONDS = 10.0
"""How long a client may take to send the body."""
MAX_KEYS = 1_000
"""How many keys all objects of a body may have; a tunnel has 256 services at most."""
MAX_VALUES = 16
"""How many values one parameter of a query may have."""


async def read_body(request: web.Request) -> bytes:
    """Return the body, within its limits; it is kept, so that it can be read again.

    Raises:
        ApiProblem: it is too large, or does not come in time.
    """
    too_large = ApiProblem(ProblemKind.TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise ApiProblem(
            ProblemKind.TOO_SLOW, f"the body did not come within {BODY_SECONDS:g} s", headers=_CLOSE
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except web.RequestPayloadError:
        raise ApiProblem(ProblemKind.BAD_REQUEST, "the body is not as its headers say") from None
    if len(body) > MAX_BODY_BYTES:
        raise too_large
    return body


_CLOSE = {"Connection": "close"}


async def read_object(request: web.Request, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Return a body that is a JSON object.

    Args:
        request: with the body.
        keys: that it may have; None for any.

    Raises:
        ApiProblem: it is none, or has another key.
    """
    if request.content_type != "application/json":
        raise ApiProblem(
            ProblemKind.MEDIA_TYPE, "send JSON, with the header Content-Type: application/json"
        )
    body = await read_body(request)
    keys_left = MAX_KEYS

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys_left
        keys_left -= len(pairs)
        made = dict(pairs)
        if keys_left < 0 or len(made) != len(pairs):
            raise ValueError("too many keys, or one twice")
        return made

    try:
        found = json.loads(body, object_pairs_hook=make_object, parse_constant=_no_constant)
        require_whole_characters(found)
    except (ValueError, RecursionError):
        # Its text is left out: it can quote what was sent.
        raise ApiProblem(
            ProblemKind.BAD_REQUEST,
            "the body is no JSON, names a key twice, has half a character, or has more than "
            f"{MAX_KEYS} keys",
        ) from None
    if not isinstance(found, dict):
        raise ApiProblem(ProblemKind.BAD_REQUEST, "the body must be a JSON object, {...}")
    if keys is not None and not found.keys() <= set(keys):
        raise ApiProblem(ProblemKind.WRONG_ENTRY, f"the body takes {_list(keys)}, and nothing else")
    return found


def _no_constant(_text: str) -> None:
    raise ValueError("no JSON number")


def query(request: web.Request, known: Collection[str]) -> dict[str, list[str]]:
    """Return the parameters of the query, each with all its values.

    Raises:
        ApiProblem: one is unknown, or has too many values.
    """
    found: dict[str, list[str]] = {}
    for name, value in request.query.items():
        if name not in known:
            allowed = f"it takes {_list(known)}" if known else "it takes none"
            raise ApiProblem(
                ProblemKind.BAD_REQUEST, f"the query has a parameter too many; {allowed}"
            )
        found.setdefault(name, []).append(value)
    if any(len(values) > MAX_VALUES for values in found.values()):
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"a parameter has at most {MAX_VALUES} values")
    return found


def single(given: dict[str, list[str]], name: str) -> str | None:
    """Return the value of a parameter that has one; None if it is not given.

    Raises:
        ApiProblem: it has several.
    """
    values = given.get(name, [])
    if len(values) > 1:
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"{name} is given several times; give it once")
    return values[0] if values else None


def flag(given: dict[str, list[str]], name: str) -> bool:
    """Return a parameter that is true or false, and false without it.

    Raises:
        ApiProblem: it is neither.
    """
    value = single(given, name)
    if value not in (None, "true", "false"):
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"write {name}=true or {name}=false")
    return value == "true"


def whole_number(given: dict[str, list[str]], name: str, largest: int) -> int | None:
    """Return a parameter that is a whole number, 0 or more; None if it is not given.

    Raises:
        ApiProblem: it is none, or too large.
    """
    value = single(given, name)
    if value is None:
        return None
    is_number = value.isascii() and value.isdecimal() and len(value) <= len(str(largest))
    if not is_number or int(value) > largest:
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"{name} is a whole number, 0 to {largest}")
    return int(value)


def moment(given: dict[str, list[str]], name: str) -> float | None:
    """Return a parameter that is a time, in seconds of the Unix epoch; None if it is not given.

    Raises:
        ApiProblem: it is neither such a number nor ISO 8601. Without an offset the latter is UTC.
    """
    text = single(given, name)
    if text is None:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ApiProblem(
            ProblemKind.BAD_REQUEST,
            f"{name} is a time: seconds of the Unix epoch, or as 2026-01-31T08:00:00Z",
        ) from None


_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class Condition:
    """Under which conditions a tunnel may be changed: If-Match and If-None-Match.

    Attributes:
        tags: one of them must be the present one; None for no condition, empty for any.
        must_be_new: there must be no such tunnel.
    """

    tags: tuple[str, ...] | None = None
    must_be_new: bool = False

    @classmethod
    def of(cls, request: web.Request) -> Condition:
        """Read the headers.

        Raises:
            ApiProblem: they cannot be understood.
        """
        none = request.headers.get("If-None-Match")
        if none is not None and none.strip() != "*":
            raise ApiProblem(ProblemKind.BAD_REQUEST, "If-None-Match takes * alone here")
        tags: tuple[str, ...] | None = None
        if "If-Match" in request.headers:
            given: tuple[ETag, ...] = request.if_match or ()
            if not given:
                raise ApiProblem(ProblemKind.BAD_REQUEST, 'If-Match takes "TAG" in quotes, or *')
            # Weak tags never match where something is changed: RFC 9110, section 13.1.1.
            strong = tuple(each.value for each in given if not each.is_weak)
            tags = () if request.headers["If-Match"].strip() == "*" else (*strong, "")
        return cls(tags, none is not None)

    def check(self, tag: str | None) -> None:
        """Compare with the present tag, None for no such tunnel.

        Raises:
            ApiProblem: the condition does not hold.
        """
        if self.must_be_new and tag is not None:
            raise ApiProblem(ProblemKind.CHANGED, "there is a tunnel of this name")
        if self.tags is None:
            return
        if tag is None or (self.tags and tag not in self.tags):
            raise ApiProblem(
                ProblemKind.CHANGED,
                "it has changed since; read it again, and send its ETag as If-Match",
            )


_UCRED = struct.Struct("3i")


def peer_of(request: web.Request) -> str:
    """Return who asks, for the log: a user id at a Unix socket, an address at another."""
    transport = request.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return f"uid {_UCRED.unpack(found)[1]}"
    return request.remote or "somebody"
