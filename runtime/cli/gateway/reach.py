"""How a client command finds its gateway and asks it, and what it says when there is none.

Owns the options that all client commands have, where the address comes from, and the words of the
failures: what was tried, why it failed, and what to do next. `connect` is here for its help alone:
what runs is `tunnelfleet.connect`, which `tunnelfleet.__main__` calls before the command line is
loaded, unless somebody asks for help or makes a mistake.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import grp
import http
import os
import pwd
import ssl
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from tunnelfleet.actors.addresses import is_loopback
from tunnelfleet.connect import connect
from tunnelfleet.proto import ConfigError, TunnelError, listed, printable
from tunnelfleet.runtime.cli.errors import CommandFailed
from tunnelfleet.runtime.gateway.api.address import (
    GatewayAddress,
    GatewayNotReached,
    GatewayRefused,
)
from tunnelfleet.runtime.gateway.api.client import GatewayClient
from tunnelfleet.runtime.gateway.config.paths import admin_socket

from .screen import note

GATEWAY_VARIABLE: Final = "TUNNELFLEET_GATEWAY"
TOKEN_VARIABLE: Final = "TUNNELFLEET_GATEWAY_TOKEN"  # noqa: S105 - the name of a variable

GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="unix:PATH|URL",
        help=f"The gateway; without it ${GATEWAY_VARIABLE}, else the socket of this machine's.",
        show_default=False,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--gateway-token-file",
        metavar="FILE",
        help=f"Bearer token of a gateway at a URL; without it ${TOKEN_VARIABLE}.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class GatewayPlace(NamedTuple):
    """Where a gateway is asked for, and who said so."""

    address: GatewayAddress
    origin: str
    """Where the address comes from, for a message; empty if the user has just written it."""


def find(given: str | None, environ: Mapping[str, str] | None = None) -> GatewayPlace:
    """Return where the gateway is: as given, else as the environment says, else the default.

    Raises:
        ConfigError: it is no address.
    """
    environ = os.environ if environ is None else environ
    if given:
        return GatewayPlace(GatewayAddress.parse(given), "")
    if named := environ.get(GATEWAY_VARIABLE):
        try:
            return GatewayPlace(GatewayAddress.parse(named), f"as {GATEWAY_VARIABLE} says")
        except ConfigError as error:
            raise ConfigError(f"{GATEWAY_VARIABLE}: {error}") from None
    path = admin_socket(environ)
    _check_owner(path.parent)
    origin = f"the default; --gateway or {GATEWAY_VARIABLE} names another"
    return GatewayPlace(GatewayAddress(path=str(path)), origin)


OPEN_FOLDER: Final = Path("/tmp")  # noqa: S108  # nosec B108
"""Where everybody can make what is not there."""


def _check_owner(folder: Path) -> None:
    """See that nobody has put a socket of their own where ours is by default, to be told tokens."""
    try:
        found = folder.lstat()
    except OSError:
        return
    is_open = folder.parent == OPEN_FOLDER
    if is_open and (found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode)):
        raise ConfigError(
            f"{folder} is {_user(found.st_uid)}'s, and not yours: name the gateway with --gateway "
            f"or {GATEWAY_VARIABLE}"
        )


@contextlib.contextmanager
def gateway_at(
    given: str | None, token_file: Path | None, **options: Any
) -> Iterator[GatewayClient]:
    """A client of the gateway, whose failures are told in words that help.

    Args:
        given: of `--gateway`.
        token_file: of `--gateway-token-file`.
        options: of `GatewayClient`.

    Raises:
        ConfigError: an option or a variable has to be changed.
        CommandFailed: the gateway does not answer, or does not do it.
    """
    place, token = find(given), given_token(token_file)
    at = place.address
    if token and not at.path and at.scheme == "http" and not is_loopback(at.host):
        note(f"warning: the token goes to {at} without TLS; whoever listens there can read it")
    with told(place), GatewayClient(at, token, **options) as client:
        yield client


def given_token(token_file: Path | None) -> str | None:
    """The bearer token for the gateway, if one is given: of the file, else of the environment.

    Raises:
        ConfigError: the file cannot be read.
    """
    if token_file is not None:
        return read_token(token_file, "--gateway-token-file")
    return os.environ.get(TOKEN_VARIABLE) or None


@contextlib.contextmanager
def told(place: GatewayPlace) -> Iterator[None]:
    """Turn the client's failures into messages for the user."""
    try:
        yield
    except GatewayNotReached as error:
        raise CommandFailed(not_reached(error, place)) from None
    except GatewayRefused as error:
        if error.status == http.HTTPStatus.BAD_REQUEST:
            # A value of an option that only the gateway knows to be wrong.
            raise ConfigError(error.detail) from None
        raise CommandFailed(refused(error)) from None


MAX_TOKEN_FILE_BYTES: Final = 65_536


def read_token(path: Path, option: str) -> str:
    """Return the token in a file, without the white space around it.

    Raises:
        ConfigError: it cannot be read, or there is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_FILE_BYTES + 1)
        text = content.decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option}: {path} holds no token: it is not ASCII") from None
    if not text or len(content) > MAX_TOKEN_FILE_BYTES:
        raise ConfigError(f"{option}: {path} holds no token")
    return text


# -- what to say


def not_reached(error: GatewayNotReached, place: GatewayPlace) -> str:
    """Return what was tried, why it failed, and what to do."""
    where = f"{place.address}" + (f" ({place.origin})" if place.origin else "")
    cause = error.cause
    if place.address.path and isinstance(cause, PermissionError):
        return f"no access to the gateway at {where}: {_owner(Path(place.address.path))}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the gateway at {where} shows a certificate that is not trusted: "
            f"{cause.verify_message}; SSL_CERT_FILE names another authority"
        )
    if isinstance(cause, TimeoutError):
        return f"the gateway at {where} does not answer in time; its log may say why"
    words = str(error).partition(f"{error.address}: ")[2] or str(error)
    if not isinstance(cause, OSError):
        return f"this is no gateway at {where}: {words}"
    if isinstance(cause, FileNotFoundError):
        words = "there is no such socket"
    elif isinstance(cause, ConnectionRefusedError) and place.address.path:
        is_socket = stat.S_ISSOCK(Path(place.address.path).stat().st_mode)
        words = "the socket is there, and nobody listens" if is_socket else "that is no socket"
    return f"no gateway answers at {where}: {words}; start one with: tunnelfleet up fleet.toml"


def _owner(path: Path) -> str:
    """Whose the socket is, or the folder that hides it, and how to get in."""
    closed = path
    for folder in reversed(path.absolute().parents):
        if not os.access(folder, os.X_OK):
            closed = folder
            break
    try:
        found = closed.stat()
    except OSError:
        return "permission denied"
    user, group = _user(found.st_uid), _group(found.st_gid)
    what = "the socket" if closed == path else f"the folder {closed}"
    me = getpass.getuser() if os.environ.get("USER") else _user(os.geteuid())
    words = f"{what} is {user}'s, group {group}, mode {stat.S_IMODE(found.st_mode):04o}"
    may_group = stat.S_IWGRP if closed == path else stat.S_IXGRP
    if found.st_mode & may_group:
        return f"{words}, and you are {me}: become {user}, or join the group {group}"
    return (
        f"{words}, and you are {me}: become {user}, or let a group in with admin_group and "
        "admin_mode in [gateway]"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def refused(error: GatewayRefused) -> str:
    """Return what the gateway said, and what to do."""
    if error.status == http.HTTPStatus.UNAUTHORIZED:
        return (
            f"the gateway wants a token: {error.detail}; give --gateway-token-file or "
            f"{TOKEN_VARIABLE}"
        )
    return error.detail


@contextlib.contextmanager
def known_name(client: GatewayClient, name: str) -> Iterator[None]:
    """Around a question about one tunnel: an unknown name is told with the nearest known ones.

    Raises:
        CommandFailed: there is no such tunnel.
    """
    try:
        yield
    except GatewayRefused as error:
        if error.status != http.HTTPStatus.NOT_FOUND:
            raise
        raise CommandFailed(unknown_name(name, client)) from None


NEAREST_NAMES: Final = 3
MAX_UNKNOWN: Final = 10
"""How many names that no tunnel has one line shows."""


def find_tunnel(client: GatewayClient, name: str) -> dict[str, Any] | None:
    """Return the row of a tunnel, at whatever gateway of the fleet it is; None without one."""
    try:
        return client.tunnel(name)
    except GatewayRefused as error:
        if error.status != http.HTTPStatus.NOT_FOUND:
            raise
        return None


def unknown_names(names: Sequence[str], client: GatewayClient) -> str:
    """Return the error that there are no such tunnels; of a single one with the nearest names."""
    if len(names) == 1:
        return unknown_name(names[0], client)
    shown = [repr(printable(each)) for each in names[:MAX_UNKNOWN]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    text = f"there are no tunnels {listed(shown, 'and')} in this fleet"
    return f"{text}; tunnelfleet ls shows what there is"


def unknown_name(name: str, client: GatewayClient) -> str:
    """Return the error that there is no such tunnel, with the nearest names."""
    try:
        names = [str(row.get("name", "")) for row in client.tunnels()]
    except TunnelError:
        names = []
    text = f"there is no tunnel {printable(name)!r} in this fleet"
    close = difflib.get_close_matches(name, names, NEAREST_NAMES, cutoff=0.6)
    if close:
        return f"{text}; did you mean {listed(close, 'or')}?"
    return f"{text}; tunnelfleet ls shows what there is"


def connect_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME[:SERVICE]", help="The tunnel, and which of its services.")
    ],
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            metavar="unix:PATH",
            help="The gateway; without it $TUNNELFLEET_GATEWAY, else the socket of this machine's.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Join standard input and output to a tunnel of a running gateway, until it ends.

    For ssh: ProxyCommand tunnelfleet connect %h:SSH. The user whom the gateway's door rules are
    asked about is the one who runs this.
    """
    return connect(name, gateway)
