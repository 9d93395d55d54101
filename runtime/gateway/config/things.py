"""Things, brokers and templates: the words of a `[[notify]]`, each checked by itself.

Owns what a thing may be called, how an address is made for one, and how a broker is written. It
reads no file and knows no other key.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import Address, TcpAddress, parse_address

MAX_THINGS: Final = 20_000
"""Of one gateway; it has at most so many tunnels."""
MAX_CLIENT_ID_BYTES: Final = 120
"""AWS allows 128 bytes; the number of a further connection stands behind it."""
MQTT_PORT: Final = 1883
MQTTS_PORT: Final = 8883
BROKER_FORM: Final = "write mqtts://HOST[:PORT], or mqtt://HOST[:PORT] without TLS"

_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
"""As AWS has it (thingName of CreateThing); so none is a wildcard of MQTT or has a slash."""
_PATTERN = re.compile(r"(?:[a-zA-Z0-9:_*?-]|\[!?[a-zA-Z0-9:_-]+\]){1,256}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_PLACEHOLDERS = ("{thing}", "{n}")
_NUMBER = re.compile(r"[0-9]+")
_LIKE_IPV4 = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


class BrokerAddress(NamedTuple):
    """Where a broker is, and whether it speaks TLS."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        scheme = "mqtts" if self.is_tls else "mqtt"
        return f"{scheme}://{TcpAddress(self.host, self.port)}"


def parse_broker(text: str) -> BrokerAddress:
    """Read `mqtts://HOST[:PORT]` or `mqtt://HOST[:PORT]`.

    Raises:
        ConfigError: it is another kind of URL, or has a password in it.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(BROKER_FORM) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a user does not belong into the URL; write username and password_file")
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or has_more or port == 0:
        raise ConfigError(BROKER_FORM)
    is_tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, port or (MQTTS_PORT if is_tls else MQTT_PORT), is_tls)


def check_client_id(text: str) -> None:
    """See that a broker can take it.

    Raises:
        ConfigError: it is empty, too long, or has characters that a client id cannot have.
    """
    if not text or len(text.encode()) > MAX_CLIENT_ID_BYTES or not text.isprintable():
        raise ConfigError(f"write 1 to {MAX_CLIENT_ID_BYTES} printable characters")
    if text.startswith("$"):
        raise ConfigError("a client id does not begin with $")


def check_thing(text: str) -> None:
    """See that it is a name of a thing.

    Raises:
        ConfigError: it is none.
    """
    if not _THING.fullmatch(text):
        raise ConfigError(
            "a thing has another name: 1 to 128 letters, digits and : _ -, no wildcards"
        )


def check_template(template: str) -> None:
    """See that an address can be made of it for a thing called `a1`.

    Raises:
        ConfigError: it has another placeholder, or is no address.
    """
    for found in _PLACEHOLDER.findall(template):
        if found not in _PLACEHOLDERS:
            raise ConfigError(f"{found} stands for nothing; there are {{thing}} and {{n}}")
    if "{" in _PLACEHOLDER.sub("", template) or "}" in _PLACEHOLDER.sub("", template):
        raise ConfigError("a brace is not closed; write {thing} or {n}")
    address_for("a1", template)


def number_in(thing: str) -> str | None:
    """What `{n}` stands for: the last number in the name, without zeros in front of it."""
    found = _NUMBER.findall(thing)
    return str(int(found[-1])) if found else None


def address_for(thing: str, template: str | int) -> Address:
    """What a service of a thing is connected to.

    Args:
        thing: its name.
        template: an address with `{thing}` and `{n}` in it.

    Raises:
        ConfigError: the name has no number for `{n}`, or what comes out is no address.
    """
    text = str(template)
    number = number_in(thing)
    if "{n}" in text and number is None:
        raise ConfigError(f"{thing!r} has no number for {{n}}; write {{thing}}, or an address")
    address = parse_address(text.replace("{thing}", thing).replace("{n}", number or ""))
    if isinstance(address, TcpAddress):
        if address.port == 0:
            raise ConfigError("port 0 cannot be connected to; write the port")
        if _LIKE_IPV4.fullmatch(address.host):
            _check_ipv4(address.host, thing)
    return address


def _check_ipv4(host: str, thing: str) -> None:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise ConfigError(f"for {thing!r} it is {host}, which is no IPv4 address") from None


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
