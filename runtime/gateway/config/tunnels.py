"""From the entries of files to wanted tunnels: defaults, tokens, certificates, what goes together.

Owns what depends on more than one key of a tunnel, or on more than one tunnel. The single keys are
in `schema`. It opens the files that the entries name, and nothing else.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import ConfigError, printable, validate_access_token
from tunnelfleet.runtime import (
    Address,
    Backoff,
    Endpoint,
    HttpProxy,
    Limits,
    Mode,
    ProtocolVersion,
    TcpAddress,
    parse_address,
)
from tunnelfleet.runtime.gateway.wanted import ListeningPlaces, WantedTunnel

from .problems import MAX_SHOWN_LENGTH, Problem
from .schema import DOOR, TOKEN_KEYS, TunnelKeys
from .secrets import Authorities, read_secret
from .validation import validate

if TYPE_CHECKING:
    from .files import Document


ENDPOINT_KEYS = ("endpoint", "region")
MAX_SERVICE_ID_CHARACTERS = 128
"""What AWS's OpenTunnel takes (model of iotsecuretunneling, shape Service)."""
EXAMPLE_TOKEN = "t" * 32
"""Stands for tokens that are not known, or not to be shown, when the rest is checked."""


class TunnelReader:
    """Reads the tunnels of all files of one configuration.

    Args:
        defaults: the keys of `[defaults]`, and the document that each is in.
        environ: where `access_token_env` looks.
        authorities: makes the TLS contexts.
    """

    def __init__(
        self,
        defaults: Mapping[str, tuple[Document, Any]],
        environ: Mapping[str, str],
        authorities: Authorities,
    ) -> None:
        self._defaults = defaults
        self._environ = environ
        self._authorities = authorities
        self._names: dict[str, str] = {}
        self._listening = ListeningPlaces()
        self._tokens: dict[tuple[str, Mode], tuple[str, str]] = {}
        self.tunnels: dict[str, WantedTunnel] = {}
        self.problems: list[Problem] = []
        self.files: set[Path] = set()

    def read(self, document: Document, number: int, entry: object) -> None:
        """Read one `[[tunnel]]`; what is wrong with it is in `problems`."""
        at = ("tunnel", number)
        before = len(self.problems)
        name = entry.get("name") if isinstance(entry, dict) else None
        name = name if isinstance(name, str) else None
        keys, bad = validate(TunnelKeys, document, at, entry, self.problems, name)
        if keys is None:
            return
        if name is not None and "name" not in bad and not self._is_new(document, at, name):
            # Whatever else is wrong with it, it is one tunnel too many.
            return
        reading = _EntryReader(self, document, at, name, keys, bad)
        wanted = reading.wanted()
        if wanted is None or any(problem.is_error for problem in self.problems[before:]):
            return
        try:
            wanted.to_config(EXAMPLE_TOKEN)
        except ConfigError as error:
            self.problems.append(document.problem(at, str(error), tunnel=name))
        else:
            self.tunnels[wanted.name] = wanted

    def _is_new(self, document: Document, at: tuple[str, int], name: str) -> bool:
        here = document.place((*at, "name"))
        place = self._names.setdefault(name, here)
        if place == here:
            return True
        hint = f"{name!r} is taken by {place}; choose another name"
        self.problems.append(document.problem((*at, "name"), hint, tunnel=name))
        return False

    def source_on_demand(
        self, document: Document, at: tuple[str, ...], keys: Mapping[str, Any]
    ) -> WantedTunnel | None:
        """Read what sources have in common that get their names and tokens later.

        Args:
            document: that the keys are in.
            at: the way to their table.
            keys: of a `[[tunnel]]`, and right each by itself.

        Returns:
            A tunnel whose name and token stand for others; None if there are mistakes.
        """
        before = len(self.problems)
        given = {**keys, "mode": Mode.SOURCE.value}
        reading = _EntryReader(self, document, at, None, given, set())
        wanted = reading.wanted(at[0], EXAMPLE_TOKEN)
        if wanted is None or any(problem.is_error for problem in self.problems[before:]):
            return None
        try:
            wanted.to_config(EXAMPLE_TOKEN)
        except ConfigError as error:
            self.problems.append(document.problem(at, str(error)))
            return None
        return wanted

    def default(self, key: str) -> Any:
        """Return the value of `[defaults]`, or None."""
        found = self._defaults.get(key)
        return None if found is None else found[1]

    def default_document(self, key: str) -> Document:
        """Return where that stands."""
        return self._defaults[key][0]

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment."""
        return self._environ

    @property
    def authorities(self) -> Authorities:
        """Makes the TLS contexts."""
        return self._authorities

    def claim_listener(self, address: Address, place: str, name: str) -> tuple[str, str] | None:
        """Note that a tunnel listens there; returns who does already, and where that stands."""
        return self._listening.claim(address, (name, place))

    def claim_token(self, token: str, mode: Mode, name: str, place: str) -> tuple[str, str] | None:
        """Note that a tunnel has this token; returns who has it already."""
        found = self._tokens.setdefault((token, mode), (name, place))
        return None if found == (name, place) else found


class _EntryReader:
    """One tunnel while it is read: its own keys first, then those of `[defaults]`."""

    def __init__(
        self,
        reader: TunnelReader,
        document: Document,
        at: tuple[str | int, ...],
        name: str | None,
        keys: Mapping[str, Any],
        bad: set[str],
    ) -> None:
        self._reader = reader
        self._document = document
        self._at = at
        self._name = name
        self._keys = keys
        self._bad = bad

    def wanted(
        self, name: str | None = None, access_token: str | None = None
    ) -> WantedTunnel | None:
        """What the keys say; a name and a token that are given here stand for those of keys."""
        mode = self._mode()
        endpoint = self._endpoint()
        token = access_token or self._access_token(mode)
        name = name or self._name
        services = self._services(mode)
        limits = self._limits()
        context, ca, fingerprint = self._trust(endpoint)
        if None in (name, mode, endpoint, token, limits):
            return None
        assert name is not None
        assert mode is not None
        assert endpoint is not None
        assert token is not None
        assert limits is not None
        proxy = self._get("http_proxy")
        marks, pacing = self._get("marks"), self._get("pacing")
        return WantedTunnel(
            name=name,
            mode=mode,
            endpoint=endpoint,
            access_token=token,
            client_token=self._get("client_token"),
            services=services,
            bind=self._get("bind"),
            version=ProtocolVersion.parse(self._get("version") or "V3"),
            bandwidth=self._get("bandwidth"),
            marks=True if marks is None else marks,
            pacing=True if pacing is None else pacing,
            http_proxy=None if proxy is None else HttpProxy.parse(proxy),
            ca=ca,
            ca_fingerprint=fingerprint,
            limits=limits,
            labels=self._merged("labels"),
            ssl_context=context,
            place=self._document.place(self._at),
        )

    # -- single parts; each says what is wrong, and returns None then

    def _mode(self) -> Mode | None:
        mode = self._get("mode")
        if mode is None:
            self._missing("mode", 'it is missing; write mode = "destination" or "source"')
            return None
        return Mode(mode)

    def _endpoint(self) -> Endpoint | None:
        key = self._one_of(
            ENDPOINT_KEYS,
            'no service is given; write region = "eu-west-1" or endpoint = "wss://..."',
        )
        if key is None:
            return None
        text = self._get(key)
        return Endpoint.parse(text) if key == "endpoint" else Endpoint.for_region(text)

    def _access_token(self, mode: Mode | None) -> str | None:
        key = self._one_of(
            TOKEN_KEYS, "no access token is given; write access_token_file or access_token_env"
        )
        if key is None:
            return None
        value = self._get(key)
        try:
            token = validate_access_token(self._read_token(key, value))
        except ConfigError as error:
            self._problem(key, str(error))
            return None
        if mode is not None and self._name is not None:
            place = self._document.place((*self._at, key))
            other = self._reader.claim_token(token, mode, self._name, place)
            if other is not None:
                hint = f"tunnel {other[0]!r} ({other[1]}) has the same access token"
                self._problem(key, f"{hint}; each end of a tunnel has one of its own")
                return None
        return token

    def _read_token(self, key: str, value: str) -> str:
        if key == "access_token":
            hint = "whoever reads this file has the tunnel; write access_token_file instead"
            self._warn(key, hint)
            return value
        if key == "access_token_env":
            found = self._reader.environ.get(value)
            if not found:
                raise ConfigError(f"the environment has no {value}; set it, or name another one")
            return found.strip()
        path = self._relative(key, value)
        secret = read_secret(path)
        self._reader.files.add(path)
        if secret.warning:
            self._warn(key, secret.warning)
        return secret.text

    def _services(self, mode: Mode | None) -> Mapping[str, Address | None] | None:
        given = self._get("services")
        if given is None:
            if mode is Mode.DESTINATION:
                hint = 'it is missing; write what to connect to, { SSH = "127.0.0.1:22" }'
                self._missing("services", hint)
            return None
        default_host = (self._get("bind") if mode is Mode.SOURCE else None) or "127.0.0.1"
        services: dict[str, Address | None] = {}
        for service_id, target in given.items():
            if len(service_id) > MAX_SERVICE_ID_CHARACTERS:
                shown = printable(service_id, MAX_SHOWN_LENGTH)
                hint = f"the service id {shown!r} has {len(service_id)} characters; write at most"
                self._problem("services", f"{hint} {MAX_SERVICE_ID_CHARACTERS}")
            else:
                key = f"services.{service_id}"
                services[service_id] = self._target(key, target, mode, default_host)
        if "" in services and len(services) > 1:
            self._problem("services", "an empty service id stands alone; name every service")
        return services

    def _target(
        self, key: str, target: object, mode: Mode | None, default_host: str
    ) -> Address | None:
        """Return where a service connects or is listened for; None for the front doors."""
        if target == DOOR:
            if mode is Mode.DESTINATION:
                self._problem(key, "a destination connects; write an address, HOST:PORT")
            return None
        address = parse_address(str(target), default_host=default_host)
        if isinstance(address, TcpAddress) and address.port == 0:
            if mode is Mode.DESTINATION:
                self._problem(key, "port 0 cannot be connected to; write the port")
        elif mode is Mode.SOURCE and self._name is not None:
            self._claim_listener(key, address)
        return address

    def _claim_listener(self, key: str, address: Address) -> None:
        assert self._name is not None
        place = self._document.place((*self._at, *key.split(".", 1)))
        other = self._reader.claim_listener(address, place, self._name)
        if other is not None:
            whose = "another service" if other[0] == self._name else f"tunnel {other[0]!r}"
            hint = f"{address} is taken by {whose} ({other[1]}); choose another port"
            self._problem(key, hint)

    def _limits(self) -> Limits | None:
        return read_limits(self._merged, self._problem)

    def _trust(self, endpoint: Endpoint | None) -> tuple[ssl.SSLContext | None, str | None, str]:
        text = self._get("ca")
        if endpoint is None or not endpoint.is_tls:
            if endpoint is not None and text is not None and "ca" in self._keys:
                self._warn("ca", "the endpoint is ws:// and has no certificate; leave it out")
            return None, None, ""
        path = None if text is None else self._relative("ca", text)
        try:
            context, fingerprint = self._reader.authorities.get(path)
        except ConfigError as error:
            self._problem("ca", str(error))
            return None, None, ""
        return context, None if path is None else str(path), fingerprint

    # -- keys

    def _get(self, key: str) -> Any:
        """Return the tunnel's own value, else the default, else None."""
        value = self._keys.get(key)
        if value is not None or key in self._bad:
            return value
        for group in (ENDPOINT_KEYS, TOKEN_KEYS):
            # Who gives one of them means that one, and not the default beside it.
            if key in group and any(each in self._keys or each in self._bad for each in group):
                return None
        return self._reader.default(key)

    def _merged(self, key: str) -> dict[str, Any]:
        given = {**(self._reader.default(key) or {}), **(self._keys.get(key) or {})}
        return {name: value for name, value in given.items() if value is not None}

    def _one_of(self, group: tuple[str, ...], if_none: str) -> str | None:
        given = [key for key in group if self._get(key) is not None]
        if len(given) > 1:
            self._problem(given[1], f"{given[0]} is given too; keep one of the two")
            return None
        if not given and not any(key in self._bad for key in group):
            self._problem(group[0], if_none)
        return given[0] if given else None

    def _relative(self, key: str, text: str) -> Path:
        is_own = self._keys.get(key) is not None
        document = self._document if is_own else self._reader.default_document(key)
        return document.relative(text)

    def _missing(self, key: str, text: str) -> None:
        if key not in self._bad:
            self._problem(key, text)

    def _problem(self, key: str, text: str) -> None:
        self._add(key, text, error=True)

    def _warn(self, key: str, text: str) -> None:
        self._add(key, text, error=False)

    def _add(self, key: str, text: str, *, error: bool) -> None:
        path: tuple[str | int, ...] = (*self._at, *key.split(".", 1))
        document = self._document
        problem = document.problem(path, text, tunnel=self._name, error=error)
        self._reader.problems.append(problem)


def read_limits(
    merged: Callable[[str], dict[str, Any]], problem: Callable[[str, str], None]
) -> Limits | None:
    """The limits of an entry; None if they are wrong, which `problem` is told.

    Args:
        merged: the keys of a table of the entry, with those of `[defaults]`.
        problem: takes a key and what is wrong with it.
    """
    try:
        backoff = Backoff(**merged("restart"))
    except (ValueError, ConfigError) as error:
        problem("restart", str(error))
        return None
    try:
        return Limits(**merged("limits"), backoff=backoff)
    except ConfigError as error:
        problem("limits", str(error))
        return None
