"""Where a gateway's admin API is, and the two ways in which a client of it fails.

Owns the forms of an address, and the words of the failures. A text of a gateway is made printable.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tunnelfleet.proto import ConfigError, TunnelError, printable

MAX_DETAIL_CHARACTERS: Final = 800
UNIX: Final = "unix:"
PORTS: Final = {"http": 80, "https": 443}


class GatewayNotReached(TunnelError):  # noqa: N818 - says what was found
    """No gateway answers at an address.

    Attributes:
        address: where it was asked for.
        cause: what the operating system, TLS or HTTP said.
    """

    def __init__(self, address: GatewayAddress, cause: Exception) -> None:
        super().__init__(f"no gateway answers at {address}: {_words(cause)}")
        self.address = address
        self.cause = cause


class GatewayRefused(TunnelError):  # noqa: N818 - says what was found
    """The gateway has answered that it does not do what it was asked for.

    Attributes:
        status: of HTTP.
        detail: in words, from the gateway.
        members: of the problem, such as `problems` of a file.
    """

    def __init__(self, status: int, members: Mapping[str, Any]) -> None:
        said = members.get("detail") or members.get("title") or http.client.responses.get(status)
        self.status = status
        self.detail = printable(str(said or "no reason given"), MAX_DETAIL_CHARACTERS)
        self.members = dict(members)
        super().__init__(self.detail)

    def __str__(self) -> str:
        return f"the gateway answered {self.status}: {self.detail}"


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where a gateway's admin API is: the path of a Unix socket, or scheme, host and port."""

    path: str = ""
    scheme: str = "http"
    host: str = "localhost"
    port: int = 80

    @classmethod
    def parse(cls, text: str) -> GatewayAddress:
        """Read `unix:PATH`, `http://HOST[:PORT]` or `https://HOST[:PORT]`.

        Raises:
            ConfigError: it is none of them.
        """
        if text.startswith(UNIX) and len(text) > len(UNIX):
            return cls(path=text.removeprefix(UNIX))
        # What stands before an @ may be a password.
        shown = "it" if "@" in text else printable(text)
        wrong = ConfigError(
            f"{shown} is no address of a gateway; write unix:PATH, http://HOST:PORT or "
            "https://HOST:PORT"
        )
        try:
            parts = urlsplit(text)
            port = parts.port
            # As the look-up of the name has it; a UnicodeError is a ValueError.
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise wrong from None
        known = parts.scheme in PORTS and parts.hostname
        if not known or parts.path.strip("/") or parts.query or parts.username is not None:
            raise wrong
        assert parts.hostname is not None
        return cls("", parts.scheme, parts.hostname, port or PORTS[parts.scheme])

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, json.JSONDecodeError):
        return "its answer is no JSON"
    return printable(str(error) or type(error).__name__)
