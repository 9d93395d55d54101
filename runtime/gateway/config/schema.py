"""The keys of a gateway's TOML files: their names, types, defaults and what they mean.

Owns every key, declared once: the check of a file, `tunnelfleet check --schema` and the table of
keys in docs/gateway.md follow from it. It reads no file, and does not look at what depends on
several keys: that is in `loader`. The keys of `limits` and `restart` follow from the core's classes
`Limits` and `Backoff`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from tunnelfleet.actors.config import MAX_WAIT_SECONDS
from tunnelfleet.proto import ConfigError, Endpoint, validate_access_token, validate_client_token
from tunnelfleet.runtime import Backoff, HttpProxy, Limits, TcpAddress, parse_address

from .things import (
    MAX_THINGS,
    check_client_id,
    check_endpoint_url,
    check_template,
    check_thing,
    check_thing_pattern,
    parse_broker,
)

DOOR = "door"
"""Where a source does not listen: its service is reached through the front door alone."""
OFF = "off"
"""What is served nowhere: the pages, the admin API."""
TOKEN_KEYS = ("access_token_file", "access_token_env", "access_token")
"""A tunnel has exactly one of these."""

MAX_LABELS = 20
MAX_LABEL_LENGTH = 200
MAX_SHARE = 1_024
MAX_WORKERS = 64
"""Gateways that share a fleet statically."""
MAX_DEMANDED_SERVICES = 256
MAX_TAGS = 50
MAX_SHARDS = 65_536
MAX_AUDIT_DAYS = 36_500
MAX_AUDIT_ROWS = 100_000_000
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_TAG = re.compile(r"[\w .:/=+@-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STATE_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg")


def _core(parse: Callable[[str], object]) -> AfterValidator:
    """Check with a function of the core, whose `ConfigError` says what would be right."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(check)


def _check_tcp(text: str) -> None:
    if not isinstance(parse_address(text), TcpAddress):
        raise ConfigError("write HOST:PORT")


def _check_metrics(text: str) -> None:
    if text != OFF:
        _check_tcp(text)


def _check_admin(text: str) -> None:
    if text != OFF:
        parse_address(text)


def _check_state(text: str) -> None:
    try:
        parts = urlsplit(text)
        has_password = parts.password is not None or "password=" in parts.query
    except ValueError:
        raise ConfigError("write sqlite:////PATH or postgresql://HOST/DATABASE") from None
    if parts.scheme not in _STATE_SCHEMES:
        raise ConfigError("write sqlite:////PATH or postgresql://HOST/DATABASE")
    if has_password:
        raise ConfigError(
            "a password does not belong here; put it into ~/.pgpass or PGPASSWORD and leave it out"
        )
    if not unquote(parts.path).isprintable():
        raise ConfigError("no file or database has a control character in its name")
    if parts.scheme == "sqlite" and parts.path in ("", "/", "/:memory:"):
        raise ConfigError("name a file, as in sqlite:////var/lib/tunnelfleet/state.db")


def _check_mode(text: str) -> None:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ConfigError('write three octal digits in quotes, as "0660"')


def _check_name(text: str) -> None:
    if not text or len(text) > MAX_LABEL_LENGTH or not text.isprintable():
        raise ConfigError(f"write 1 to {MAX_LABEL_LENGTH} printable characters")


def _check_variable(text: str) -> None:
    if not _VARIABLE.fullmatch(text):
        raise ConfigError("write the name of an environment variable, without $ and braces")


def _check_shards(shards: int) -> int:
    if not 1 <= shards <= MAX_SHARDS or shards & (shards - 1):
        raise ValueError(f"write a power of two up to {MAX_SHARDS}, such as 256")
    return shards


def _check_target(target: str | int) -> str | int:
    if target != DOOR:
        try:
            parse_address(str(target))
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return target


def _check_template(template: str | int) -> str | int:
    try:
        check_template(str(template))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return template


def _in_capitals(text: object) -> object:
    return text.upper() if isinstance(text, str) else text


def _check_services(services: dict[str, str | int]) -> dict[str, str | int]:
    if not services:
        raise ValueError('it is empty; name at least one, as in { SSH = "127.0.0.1:22" }')
    return services


def _check_label_name(name: str) -> None:
    if not _LABEL.fullmatch(name):
        raise ConfigError("a label has another name: letters, digits and _, no digit in front")


def _check_label(value: str) -> None:
    if len(value) > MAX_LABEL_LENGTH or not value.isprintable():
        raise ConfigError(f"write at most {MAX_LABEL_LENGTH} printable characters")


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise ValueError(f"there are {len(labels)} labels; at most {MAX_LABELS} are possible")
    return labels


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > MAX_TAGS:
        raise ValueError(f"there are {len(tags)} tags; at most {MAX_TAGS} are possible")
    for key, value in tags.items():
        if not _TAG.fullmatch(key) or len(key) > 128 or key.lower().startswith("aws:"):
            raise ValueError("a key of a tag has 1 to 128 of letters, digits, blanks and _.:/=+-@")
        if not _TAG.fullmatch(value or " ") or len(value) > 256:
            raise ValueError("a value of a tag has up to 256 of those characters")
    return tags


_CORE_DOCS = {
    "send_high_water_messages": "Of the client API, which a gateway does not use.",
    "event_backlog_bytes": "Of callbacks, which a gateway does not use.",
    "listen_backlog": "Callers that may wait in the kernel until a listener accepts them.",
    "local_connect_timeout_seconds": "For a destination's connect to the application.",
    "ping_interval_seconds": "How often a quiet link is asked whether it lives.",
    "pong_timeout_seconds": "A link that does not answer within this time is dead.",
    "min_seconds": "At most so long after the first failure; the delay is drawn by chance.",
    "max_seconds": "The longest delay, however many failures there were.",
    "stability_seconds": "A link that was up so long has recovered: its next failure is a first.",
}
"""Where the core says nothing, or speaks of something that operators do not see."""


def _of_core(name: str, cls: type[Any], leave_out: Iterable[str] = ()) -> type[BaseModel]:
    """Return a model of a dataclass of the core: the same names and types, nothing required."""
    docs = _attribute_docs(cls)
    given: dict[str, Any] = {}
    for each in fields(cls):
        if each.name in leave_out:
            continue
        kind = int if isinstance(each.default, int) else float
        default = None if each.default is MISSING else each.default
        described = docs.get(each.name, f"{each.name.replace('_', ' ').capitalize()}.")
        description = _CORE_DOCS.get(each.name, described)
        # The core's class checks the numbers together; here each must be possible alone.
        given[each.name] = (
            Annotated[kind, Field(gt=0, allow_inf_nan=False)] | None,
            Field(default=None, description=description, json_schema_extra={"default": default}),
        )
    return create_model(name, __config__=_CONFIG, **given)


def _attribute_docs(cls: type[Any]) -> dict[str, str]:
    """Return what stands below each field of a class, or in the Args of its docstring."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = dict(re.findall(r"^ +(\w+): (.+)$", cls.__doc__ or "", re.MULTILINE))
    for before, node in zip(tree.body, tree.body[1:], strict=False):
        match before, node:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return {name: text[0].upper() + text[1:] for name, text in found.items()}


_CONFIG = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    use_attribute_docstrings=True,
    hide_input_in_errors=True,
)

LimitKeys = _of_core("limits", Limits, leave_out=["backoff"])
RestartKeys = _of_core("restart", Backoff)

Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)]
Target = Annotated[str | int, AfterValidator(_check_target)]
Template = Annotated[str | int, AfterValidator(_check_template)]
LabelName = Annotated[str, _core(_check_label_name)]
LabelValue = Annotated[str, _core(_check_label)]


class GatewayKeys(BaseModel):
    """The table `[gateway]`: the process itself. It is optional, and so is each of its keys."""

    model_config = _CONFIG

    name: Annotated[str, _core(_check_name)] | None = None
    """What this gateway is called; without it, the host's name."""
    admin: Annotated[str, _core(_check_admin)] | None = None
    """Where `tunnelfleet ls` and the other commands reach it, as `unix:PATH`, or as `HOST:PORT`
    with `admin_token_file`; `"off"` for nowhere. Without it, `admin.sock` in `$RUNTIME_DIRECTORY`,
    else in `tunnelfleet` below `$XDG_RUNTIME_DIR`, else in `/run/tunnelfleet` for root and in
    `tunnelfleet-UID` below `/tmp` for others.
    """
    admin_mode: Annotated[str, _core(_check_mode)] | None = None
    """Permissions of that socket, such as `"0660"`; without it `"0600"`."""
    admin_group: Text | None = None
    """Group that the socket belongs to, by name."""
    admin_token_file: Text | None = None
    """File with the bearer token that the admin API asks for; a TCP address needs one."""
    admin_hosts: list[Text] | None = None
    """Names that clients may call the gateway by at a TCP address, beside its addresses and the
    name of its machine.
    """
    metrics: Annotated[str, _core(_check_metrics)] = "127.0.0.1:9464"
    """Where the status page, `/metrics`, `/healthz` and `/readyz` are served, as `HOST:PORT`;
    `"off"` for nowhere.
    """
    metrics_token_file: Text | None = None
    """File with the bearer token that those pages ask for."""
    metrics_open: bool = False
    """Whether those pages may be served to other machines without a token."""
    metrics_hosts: list[Text] | None = None
    """More names by which a browser may ask for the status page. Addresses, `localhost` and the
    names of the machine are known; any other name could be somebody else's that points here.
    """
    state: Annotated[str, _core(_check_state)] | None = None
    """Where what must survive a restart is kept, as a URL of SQLAlchemy; without it, a file in
    `$STATE_DIRECTORY`, or in `tunnelfleet` below `$XDG_STATE_HOME`. The password of PostgreSQL
    comes from `~/.pgpass` or `PGPASSWORD`.
    """
    audit_days: Annotated[float, Field(gt=0, le=MAX_AUDIT_DAYS, allow_inf_nan=False)] = 90.0
    """How many days the audit of connections is kept in the state."""
    audit_rows: Annotated[int, Field(ge=0, le=MAX_AUDIT_ROWS)] = 200_000
    """How many of its rows are kept for this gateway, about 300 bytes each; 0 for no audit."""
    placement: Literal["static", "postgres", "ray"] = "static"
    """How gateways share a fleet: `"static"`, each has a fixed part; alone it has all. With
    `"postgres"` they share it by leases in the `state`, and take over from each other. `"ray"` is
    for `tunnelfleet ray up`.
    """
    lease_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 10.0
    """With `placement = "postgres"`: after how long without a sign of life the others take over.
    It is renewed five times as often, and all gateways need the same. On Ray: after how long a
    group that is brought up again may connect.
    """
    shards: Annotated[int, AfterValidator(_check_shards)] = 256
    """With `placement = "postgres"` or `"ray"`: into how many parts the fleet is cut; a power of
    two, the same for all gateways, and well above their number.
    """
    placement_members: Annotated[int, Field(ge=1, le=MAX_SHARE)] = 1
    """How many gateways share the fleet."""
    placement_ordinal: Annotated[int, Field(ge=0)] | None = None
    """Which of them this one is, from 0; without it, the number at the end of the gateway's name,
    which a StatefulSet gives.
    """
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    """Processes in which the tunnels run, each with its part of them; 1 runs all in this one."""
    client_token_secret_file: Text | None = None
    """File with the secret that client tokens are derived from, at least 32 bytes; without it one
    is made beside the state at the first start. Gateways that share a fleet need the same.
    """
    connect_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Connects a second over all tunnels; AWS allows about 10 an account."""
    connect_concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Connects that may be under way at once; each takes a thread."""
    drain_seconds: Seconds = 30.0
    """How long what is open may go on when a tunnel is removed or the gateway is stopped."""
    door: Annotated[str, _core(parse_address)] | None = None
    """Where the front door for SOCKS5 and HTTP CONNECT listens, as `HOST:PORT` or `unix:PATH`;
    other machines may reach it with `door_users_file` only.
    """
    door_users_file: Text | None = None
    """File with the users of a front door at a TCP port, `NAME:HASH` a line, as
    `tunnelfleet door-user NAME` writes it; it is read at each start and reload.
    """
    fleet_listen: Annotated[str, _core(_check_tcp)] | None = None
    """With `placement = "postgres"`: where other gateways of the fleet reach this one, as
    `HOST:PORT`, so that the door of any leads to the tunnels of all; it needs the three files.
    """
    fleet_address: Annotated[str, _core(_check_tcp)] | None = None
    """What the others are told instead of `fleet_listen`, as `HOST:PORT`: behind NAT, or where it
    listens at all addresses.
    """
    fleet_cert: Text | None = None
    """PEM file with this gateway's certificate for the others, which has the gateway's `name` as
    a DNS name or common name. This file and the next two are read at each start and reload.
    """
    fleet_key: Text | None = None
    """PEM file with its key, without a passphrase."""
    fleet_ca: Text | None = None
    """PEM file with the fleet's own authority: whoever has a certificate of it is a gateway."""


class TunnelBase(BaseModel):
    """The keys that a tunnel and `[defaults]` have in common."""

    model_config = _CONFIG

    mode: Literal["source", "destination"] | None = None
    """`"source"` accepts local connections; `"destination"` connects to local applications."""
    endpoint: Annotated[str, _core(Endpoint.parse)] | None = None
    """The tunneling service, as `HOST`, `HOST:PORT` or `wss://HOST:PORT`."""
    region: Annotated[str, _core(Endpoint.for_region)] | None = None
    """The AWS region of the service, instead of `endpoint`."""
    ca: Text | None = None
    """PEM file or folder of the authorities to trust; without it, the system's."""
    access_token_file: Text | None = None
    """File with the access token; it is read at each start and reload."""
    access_token_env: Annotated[str, _core(_check_variable)] | None = None
    """Environment variable with the access token."""
    access_token: Annotated[str, _core(validate_access_token)] | None = Field(
        default=None, repr=False
    )
    """The access token itself: for a first try only, whoever reads the file has the tunnel."""
    client_token: Annotated[str, _core(validate_client_token)] | None = Field(
        default=None, repr=False
    )
    """The client token; without it, one is derived from the secret and the access token."""
    services: Annotated[dict[str, Target], AfterValidator(_check_services)] | None = None
    """Service id to address. Destination: what to connect to. Source: where to listen, port 0 for
    a free port; without `services` it listens on a free port for each service. `"door"` for the
    front door alone.
    """
    labels: Annotated[dict[LabelName, LabelValue], AfterValidator(_check_labels)] | None = None
    """What people and metrics tell tunnels apart by; a change applies in place."""
    version: Annotated[Literal["V1", "V2", "V3"], BeforeValidator(_in_capitals)] | None = None
    """What a source speaks, `"V3"` unless the destination is an old one."""
    bandwidth: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Bytes a second that sending is paced to; without it the tunnel finds out, see `pacing`."""
    pacing: bool | None = None
    """Whether to find out by pings how fast to send, where `bandwidth` does not say it; true unless
    told.
    """
    marks: bool | None = None
    """Whether ends tell each other how a connection ended (docs/protocol.md); true unless told."""
    http_proxy: Annotated[str, _core(HttpProxy.parse)] | None = Field(default=None, repr=False)
    """Proxy to the service, as `http://[USER:PASSWORD@]HOST:PORT`."""
    bind: Text | None = None
    """Source: address to listen on where `services` gives a port alone. Destination: address that
    local connections come from.
    """
    limits: LimitKeys | None = None  # type: ignore[valid-type]
    """Bounds of the tunnel, see below."""
    restart: RestartKeys | None = None  # type: ignore[valid-type]
    """Delays before it connects again, see below."""


class DefaultKeys(TunnelBase):
    """The table `[defaults]`: any key of a tunnel but its name, for tunnels that have not got it.

    `labels`, `limits` and `restart` are merged key by key. A tunnel's `region` replaces a default
    `endpoint`, and the other way round.
    """


class TunnelKeys(TunnelBase):
    """A tunnel, `[[tunnel]]`."""

    name: Annotated[str, _core(_check_name)]
    """What it is called; unique in the fleet."""


class DoorRuleKeys(BaseModel):
    """Who may reach what through the front doors, `[[door_rule]]`; without any, everybody all."""

    model_config = _CONFIG

    users: Annotated[list[Text], Field(min_length=1)] | None = None
    """Users that the rule is about, `*` standing for anything; without it, all."""
    tunnels: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Names of tunnels, `*` standing for anything; without it, all."""
    services: Annotated[list[Text], Field(min_length=1)] | None = None
    """Service ids, in whatever case, `*` standing for anything; without it, all."""


class NotifyKeys(BaseModel):
    """A broker that tells devices of their tunnels, `[[notify]]`; for destinations on demand."""

    model_config = _CONFIG

    broker: Annotated[str, _core(parse_broker)]
    """Where notifications come from, as `mqtts://HOST[:PORT]`, or `mqtt://` without TLS."""
    things: list[Annotated[str, _core(check_thing)]] = Field(min_length=1, max_length=MAX_THINGS)
    """The devices whose tunnels this gateway opens, by the names of their things."""
    services: Annotated[dict[str, Template], AfterValidator(_check_services)]
    """Service id to what it is connected to; `{thing}` stands for the name of the thing, `{n}` for
    the last number in it. What is not listed is refused. `""` for tunnels without a service id.
    """
    cert_file: Text | None = None
    """PEM file with the certificate that the broker knows this gateway by."""
    key_file: Text | None = None
    """PEM file with the key of `cert_file`."""
    ca: Text | None = None
    """PEM file of the authorities that the broker's certificate may be of; without it, the
    system's.
    """
    username: Text | None = None
    """User at the broker."""
    password_file: Text | None = None
    """File with the password of `username`."""
    client_id: Annotated[str, _core(check_client_id)] | None = None
    """What the broker knows the session by; without it, one is made of the gateway's name. Of
    several connections the second has `-2` behind it, and so on.
    """
    endpoint: Annotated[str, _core(Endpoint.parse)] | None = None
    """The tunneling service; without it that of `[defaults]`, else that of AWS in the region of
    the notification.
    """
    endpoint_ca: Text | None = None
    """PEM file or folder of the authorities to trust at `endpoint`; without it `ca` of
    `[defaults]`, else the system's.
    """
    http_proxy: Annotated[str, _core(HttpProxy.parse)] | None = Field(default=None, repr=False)
    """Proxy to the tunneling service; without it that of `[defaults]`."""
    bind: Text | None = None
    """Address that connections to the devices come from."""
    labels: Annotated[dict[LabelName, LabelValue], AfterValidator(_check_labels)] | None = None
    """Labels of the tunnels, beside those of `[defaults]`; each has `thing` as well."""
    tunnels_per_thing: Annotated[int, Field(ge=1, le=1_000)] = 10
    """How many tunnels of one thing may be open at once."""
    subscriptions_per_connection: Annotated[int, Field(ge=1, le=MAX_THINGS)] = 50
    """Things that one connection to the broker asks for; more things take more connections. AWS
    allows 50.
    """
    limits: LimitKeys | None = None  # type: ignore[valid-type]
    """Bounds of the tunnels, as those of a tunnel; merged with those of `[defaults]`."""
    restart: RestartKeys | None = None  # type: ignore[valid-type]
    """Delays before a tunnel connects again, as those of a tunnel; merged with `[defaults]`."""


class OnDemandKeys(BaseModel):
    """Tunnels that are opened when somebody asks for them, `[on_demand]`; each costs at AWS."""

    model_config = _CONFIG

    region: Annotated[str, _core(Endpoint.for_region)] | None = None
    """The AWS region in which tunnels are opened; without it, that of `[defaults]`."""
    endpoint_url: Annotated[str, _core(check_endpoint_url)] | None = None
    """A management API of one's own instead of AWS's, as `http://HOST:PORT`; needs `endpoint`."""
    endpoint: Annotated[str, _core(Endpoint.parse)] | None = None
    """The tunneling service of the tunnels, if it is not that of the region."""
    ca: Text | None = None
    """PEM file or folder of the authorities to trust for it; without it, that of `[defaults]`."""
    profile: Text | None = None
    """Whose credentials are used, of those in AWS's files; without it, what boto3 finds."""
    things: (
        Annotated[
            list[Annotated[str, _core(check_thing_pattern)]], Field(min_length=1, max_length=10_000)
        ]
        | None
    ) = None
    """Names of things that may get a tunnel, `*` standing for anything; others get none."""
    services: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(min_length=1, max_length=MAX_DEMANDED_SERVICES),
        ]
        | None
    ) = None
    """The services of each tunnel; AWS lets one have 3."""
    wait_seconds: Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)] = 60.0
    """How long clients wait for the device, once its tunnel is open."""
    idle_seconds: Annotated[float, Field(gt=0, le=43_200, allow_inf_nan=False)] = 900.0
    """A tunnel without a connection is closed after so long."""
    lifetime_minutes: Annotated[int, Field(ge=1, le=720)] = 720
    """How long a tunnel lives; before it ends, the next one is opened if it is in use."""
    max_open: Annotated[int, Field(ge=1, le=2_000)] = 50
    """How many may be open at once; whoever asks for one more is refused."""
    max_opens_per_hour: Annotated[int, Field(ge=1, le=3_600)] = 100
    """How many are opened in any hour; whoever asks for one more is refused."""
    opens_per_second: Annotated[float, Field(gt=0, le=1_000, allow_inf_nan=False)] = 1.0
    """How often OpenTunnel is called; AWS allows about 1 a second an account."""
    negative_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 30.0
    """A name that has failed is not tried again before."""
    keep_on_stop: bool = False
    """Whether tunnels stay open, for the next start, when the gateway stops; else they are closed.
    """
    tags: Annotated[dict[Text, str], AfterValidator(_check_tags)] | None = None
    """Tags of the tunnels at AWS, for its bill and its policies."""


class FileKeys(BaseModel):
    """A configuration file of a gateway."""

    model_config = _CONFIG

    gateway: GatewayKeys = GatewayKeys()
    """The process itself."""
    defaults: DefaultKeys = DefaultKeys()
    """For all tunnels."""
    tunnel: list[TunnelKeys] = []
    """The tunnels."""
    door_rule: list[DoorRuleKeys] = []
    """Who may reach what through the front door."""
    notify: list[NotifyKeys] = []
    """The brokers that tell devices of their tunnels."""
    on_demand: OnDemandKeys = OnDemandKeys()
    """Tunnels that are opened when somebody asks for them."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file, for editors."""
    schema = _for_toml(FileKeys.model_json_schema())
    assert isinstance(schema, dict)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "tunnelfleet gateway",
    }


def _for_toml(schema: Any) -> Any:
    """Leave out what a person who writes TOML has no use for: null, and titles made of names."""
    if isinstance(schema, list):
        return [_for_toml(each) for each in schema if each != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    found = {key: _for_toml(value) for key, value in schema.items()}
    if found.get("default", 0) is None:
        del found["default"]
    if isinstance(found.get("title"), str):
        del found["title"]
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    members = found.get("anyOf")
    if isinstance(members, list) and len(members) == 1:
        del found["anyOf"]
        found.update({**members[0], **found})
    return found


def known_keys(model: type[BaseModel]) -> dict[str, Iterable[str]]:
    """Return the names of a table's keys, by the way to it from the table ("" for itself)."""
    known: dict[str, Iterable[str]] = {"": list(model.model_fields)}
    if issubclass(model, TunnelBase | NotifyKeys):
        known |= {
            "limits": list(LimitKeys.model_fields),
            "restart": list(RestartKeys.model_fields),
        }
    return known
