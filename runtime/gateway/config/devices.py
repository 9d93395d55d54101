"""Reading `[[notify]]`: brokers, their credentials, and the tunnels of the devices behind them.

Owns what depends on more than one key of a section, or on more than one section. What is read is
`NotifySection`; the tunnels themselves come with the notifications (`tunnelfleet.runtime.gateway.
devices`). It opens the files that the sections name, and nothing else.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.proto import ConfigError, Endpoint
from tunnelfleet.runtime import HttpProxy, Limits, make_ssl_context

from .problems import Problem
from .schema import NotifyKeys
from .secrets import read_private, read_secret
from .things import BrokerAddress, address_for, parse_broker
from .tunnels import TunnelReader, read_limits
from .validation import validate

if TYPE_CHECKING:
    from .files import Document


PACKAGE: Final = "paho.mqtt.client"
INSTALL: Final = (
    "notifications need paho-mqtt, which is not installed; "
    "install it with: pip install 'tunnelfleet[mqtt]'"
)
MAX_PEM_BYTES: Final = 1_048_576
THING_LABEL: Final = "thing"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """A broker and how this gateway is known there. Equal ones share their connections.

    Attributes:
        address: where it is.
        client_id: of the first connection.
        username: of the gateway, or None.
        password: of the user, or None.
        ca: PEM file to trust; None for what the system trusts.
        cert_file: PEM file of the gateway's certificate, or None.
        key_file: PEM file of its key.
        fingerprint: of what is in those files, so that a new content is a change.
        subscriptions: things that one connection asks for.
    """

    address: BrokerAddress
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    fingerprint: str = ""
    subscriptions: int = 50

    def __str__(self) -> str:
        return str(self.address)

    def make_ssl_context(self) -> ssl.SSLContext | None:
        """A context that trusts `ca` and shows the certificate; None without TLS.

        Raises:
            ConfigError: a file cannot be used.
        """
        if not self.address.is_tls:
            return None
        try:
            context = make_ssl_context(self.ca)
        except ConfigError:
            raise ConfigError(f"{self.ca} has no certificate to trust; name a PEM file") from None
        if self.cert_file is not None:
            try:
                # With an empty password OpenSSL does not ask for one on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except (OSError, ssl.SSLError):
                raise ConfigError(
                    f"{self.cert_file} and {self.key_file} are no certificate and its key"
                ) from None
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySection:
    """One `[[notify]]`.

    Attributes:
        broker: who notifies.
        things: whose tunnels are opened.
        services: service id to a template of an address.
        endpoint: the tunneling service; None for that of the notification's region.
        ca: file or folder of the authorities to trust there; None for the system's.
        ca_fingerprint: of what was in it.
        ssl_context: made of `ca`.
        http_proxy: to the service.
        bind: address that connections to devices come from.
        limits: of each tunnel, with its delays.
        labels: of each tunnel.
        tunnels_per_thing: that may be open at once.
        place: where it stands, for people.
    """

    broker: BrokerSettings
    things: tuple[str, ...]
    services: Mapping[str, str | int]
    endpoint: Endpoint | None = None
    ca: str | None = None
    ca_fingerprint: str = ""
    ssl_context: ssl.SSLContext | None = field(default=None, compare=False, repr=False)
    http_proxy: HttpProxy | None = field(default=None, repr=False)
    bind: str | None = None
    limits: Limits = field(default_factory=Limits)
    labels: Mapping[str, str] = field(default_factory=dict)
    tunnels_per_thing: int = 10
    place: str = field(default="", compare=False)


class NotifyReader:
    """Reads the sections of all files of one configuration.

    Args:
        tunnels: knows `[defaults]` and makes the TLS contexts.
        gateway: its name, which the client ids are made of.
    """

    def __init__(self, tunnels: TunnelReader, gateway: str) -> None:
        self._tunnels = tunnels
        self._gateway = gateway
        self._brokers: dict[tuple[BrokerAddress, str], tuple[BrokerSettings, str]] = {}
        self._things: dict[tuple[BrokerSettings, str], str] = {}
        self.sections: list[NotifySection] = []
        self.problems: list[Problem] = []
        self.files: set[Path] = set()

    def read(self, document: Document, number: int, entry: object) -> None:
        """Read one `[[notify]]`; what is wrong with it is in `problems`."""
        at = ("notify", number)
        try:
            # Here, on the thread that reads files: loading it would hold up an actor.
            importlib.import_module(PACKAGE)
        except ImportError:
            self.problems.append(document.problem(at, INSTALL))
            return
        keys, bad = validate(NotifyKeys, document, at, entry, self.problems)
        if keys is None:
            return
        before = len(self.problems)
        section = _SectionReader(self, self._tunnels, document, at, keys, bad).read(self._gateway)
        if section is None or any(each.is_error for each in self.problems[before:]) or bad:
            return
        self._claim(document, at, section)
        self.sections.append(section)

    def _claim(self, document: Document, at: tuple[str, int], section: NotifySection) -> None:
        """See that no other section has the same session, or the same thing at the broker."""
        broker, place = section.broker, document.place(at)
        other, where = self._brokers.setdefault((broker.address, broker.client_id), (broker, place))
        if other != broker:
            hint = f"{where} has the same broker and another user, certificate or limit"
            text = f"{hint}; write client_id, or the same keys"
            self.problems.append(document.problem((*at, "broker"), text))
            return
        for thing in section.things:
            where = self._things.setdefault((broker, thing), place)
            if where != place:
                text = f"{thing!r} is in {where} too; keep one of the two"
                self.problems.append(document.problem((*at, "things"), text))


class _SectionReader:
    """One section while it is read."""

    def __init__(
        self,
        reader: NotifyReader,
        tunnels: TunnelReader,
        document: Document,
        at: tuple[str, int],
        keys: Mapping[str, Any],
        bad: set[str],
    ) -> None:
        self._reader = reader
        self._tunnels = tunnels
        self._document = document
        self._at = at
        self._keys = keys
        self._bad = bad

    def read(self, gateway: str) -> NotifySection | None:
        broker = self._broker(gateway)
        things = self._check_things()
        services: Mapping[str, str | int] = self._keys.get("services") or {}
        self._check_services(things, services)
        limits = self._limits()
        endpoint = self._endpoint()
        context, ca, fingerprint = self._trust(endpoint)
        if broker is None or limits is None:
            return None
        proxy = self._get("http_proxy")
        return NotifySection(
            broker=broker,
            things=things,
            services=services,
            endpoint=endpoint,
            ca=ca,
            ca_fingerprint=fingerprint,
            ssl_context=context,
            http_proxy=None if proxy is None else HttpProxy.parse(proxy),
            bind=self._keys.get("bind"),
            limits=limits,
            labels=self._merged("labels"),
            tunnels_per_thing=self._keys.get("tunnels_per_thing", 10),
            place=self._document.place(self._at),
        )

    # -- the broker

    def _broker(self, gateway: str) -> BrokerSettings | None:
        text = self._keys.get("broker")
        if text is None:
            return None
        address = parse_broker(text)
        username = self._keys.get("username")
        files = {key: self._file(key) for key in ("ca", "cert_file", "key_file")}
        settings = BrokerSettings(
            address,
            self._keys.get("client_id") or _client_id(gateway, address, username),
            username,
            self._password(username),
            files["ca"],
            files["cert_file"],
            files["key_file"],
            self._fingerprint(files),
            self._keys.get("subscriptions_per_connection", 50),
        )
        if not address.is_tls:
            self._check_without_tls(files)
        elif not self._check_pair(files):
            return settings
        try:
            settings.make_ssl_context()
        except ConfigError as error:
            key = "ca" if str(settings.ca) in str(error) else "cert_file"
            self._problem(key, str(error))
        return settings

    def _check_without_tls(self, files: Mapping[str, Path | None]) -> None:
        for key, path in files.items():
            if path is not None:
                self._problem(key, "mqtt:// has no TLS; write mqtts://, or leave it out")

    def _check_pair(self, files: Mapping[str, Path | None]) -> bool:
        given = [key for key in ("cert_file", "key_file") if files[key] is not None]
        if len(given) == 1:
            self._problem(given[0], "cert_file and key_file go together; give both or none")
        return len(given) != 1

    def _password(self, username: str | None) -> str | None:
        path = self._file("password_file")
        if path is None:
            return None
        if username is None:
            self._problem("password_file", "it is the password of nobody; write username too")
            return None
        try:
            secret = read_secret(path)
        except ConfigError as error:
            self._problem("password_file", str(error))
            return None
        if secret.warning:
            self._warn("password_file", secret.warning)
        return secret.text

    def _fingerprint(self, files: Mapping[str, Path | None]) -> str:
        digest = hashlib.sha256()
        for key, path in files.items():
            if path is None:
                continue
            try:
                content, warning = read_private(path, MAX_PEM_BYTES)
            except ConfigError as error:
                self._problem(key, str(error))
                continue
            if warning and key == "key_file":
                self._warn(key, warning)
            digest.update(key.encode() + b"\0" + content + b"\0")
        return digest.hexdigest()

    def _file(self, key: str) -> Path | None:
        text = self._keys.get(key)
        if text is None:
            return None
        path = self._document.relative(text)
        self._reader.files.add(path)
        return path

    # -- things and their services

    def _check_things(self) -> tuple[str, ...]:
        things: list[str] = self._keys.get("things") or []
        found = dict.fromkeys(things)
        if len(found) < len(things):
            double = next(each for each in found if things.count(each) > 1)
            self._warn("things", f"{double!r} stands there twice")
        return tuple(found)

    def _check_services(self, things: tuple[str, ...], services: Mapping[str, str | int]) -> None:
        for service_id, template in services.items():
            for thing in things:
                try:
                    address_for(thing, template)
                except ConfigError as error:
                    self._problem(f"services.{service_id}", str(error))
                    break

    # -- the tunnels

    def _endpoint(self) -> Endpoint | None:
        text = self._get("endpoint")
        return None if text is None else Endpoint.parse(text)

    def _trust(self, endpoint: Endpoint | None) -> tuple[ssl.SSLContext | None, str | None, str]:
        if endpoint is not None and not endpoint.is_tls:
            if "endpoint_ca" in self._keys:
                self._warn("endpoint_ca", "the endpoint is ws:// and has no certificate")
            return None, None, ""
        path = self._file("endpoint_ca")
        if path is None and "endpoint_ca" not in self._bad:
            text = self._tunnels.default("ca")
            if text is not None:
                path = self._tunnels.default_document("ca").relative(text)
        try:
            context, fingerprint = self._tunnels.authorities.get(path)
        except ConfigError as error:
            self._problem("endpoint_ca", str(error))
            return None, None, ""
        return context, None if path is None else str(path), fingerprint

    def _limits(self) -> Limits | None:
        return read_limits(self._merged, self._problem)

    # -- keys

    def _get(self, key: str) -> Any:
        value = self._keys.get(key)
        return value if value is not None or key in self._bad else self._tunnels.default(key)

    def _merged(self, key: str) -> dict[str, Any]:
        given = {**(self._tunnels.default(key) or {}), **(self._keys.get(key) or {})}
        return {name: value for name, value in given.items() if value is not None}

    def _problem(self, key: str, text: str) -> None:
        self._add(key, text, error=True)

    def _warn(self, key: str, text: str) -> None:
        self._add(key, text, error=False)

    def _add(self, key: str, text: str, *, error: bool) -> None:
        path: tuple[str | int, ...] = (*self._at, *key.split(".", 1))
        self._reader.problems.append(self._document.problem(path, text, error=error))


def _client_id(gateway: str, address: BrokerAddress, username: str | None) -> str:
    """One that is the same at each start, and another one for another gateway or broker."""
    text = "\0".join([gateway, address.host, str(address.port), username or ""])
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", gateway)[:64].strip("-")
    return f"tunnelfleet-{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
