"""`tunnelfleet add`, `rm`, `drain`, `retry`, `replace-token`: commands that change a fleet.

Owns their options, how a file for `add` is read, where a token may come from, and what is said
afterwards. A token is never an argument: the list of processes and the history of a shell show
those to others.
"""

from __future__ import annotations

import getpass
import http
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from tunnelfleet.proto import ConfigError, counted
from tunnelfleet.runtime.cli import errors
from tunnelfleet.runtime.gateway.api.address import GatewayRefused
from tunnelfleet.runtime.gateway.api.client import GatewayClient

from . import reach
from .look import ordered
from .screen import note, say, write_json

MAX_ENTRY_BYTES: Final = 8 * 1024 * 1024

Entry = dict[str, Any]


def read_entries(
    content: bytes, name: str, folder: Path, environ: Mapping[str, str] | None = None
) -> list[Entry]:
    """Read the entries.

    Args:
        content: of the file, or of standard input.
        name: of the file, for messages.
        folder: to which its paths are relative.
        environ: for `access_token_env`.

    Raises:
        ConfigError: it cannot be read; what an entry means is for the gateway to judge.
    """
    if len(content) > MAX_ENTRY_BYTES:
        raise ConfigError(f"{name}: it is longer than {MAX_ENTRY_BYTES:,} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is no UTF-8") from None
    try:
        found = _parsed(text, name)
    except RecursionError:
        raise ConfigError(f"{name}: lists or tables are nested too deeply") from None
    except ValueError:
        # Python makes no number of thousands of digits.
        raise ConfigError(f"{name}: a number has too many digits") from None
    entries = _of(found, name)
    if not entries:
        raise ConfigError(f"{name}: there is no [[tunnel]] in it")
    environ = os.environ if environ is None else environ
    return [_complete(entry, name, folder, environ) for entry in entries]


def _parsed(text: str, name: str) -> object:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            # `[[tunnel]]` of TOML begins with a bracket, too.
            if text.lstrip().startswith("{"):
                raise ConfigError(f"{name}:{error.lineno}: this is no JSON: {error.msg}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: this is no TOML: {error}") from None


def _of(found: object, name: str) -> list[Entry]:
    if isinstance(found, list):
        entries: object = found
        defaults: object = {}
    elif isinstance(found, dict) and "tunnel" in found:
        others = sorted(set(found) - {"tunnel", "defaults"})
        if others:
            raise ConfigError(
                f"{name}: {others[0]}: only [[tunnel]] and [defaults] can be added to a gateway "
                "that runs"
            )
        entries, defaults = found["tunnel"], found.get("defaults", {})
    else:
        entries, defaults = ([found] if found else []), {}
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ConfigError(f"{name}: tunnel: write [[tunnel]] with two brackets")
    if not isinstance(defaults, dict):
        raise ConfigError(f"{name}: defaults: write [defaults]")
    return [_merged(defaults, each) for each in entries]


_TABLES: Final = ("limits", "restart", "labels")
"""Tables of an entry that are merged with those of `[defaults]`, key by key."""
_GROUPS: Final = (
    ("access_token_file", "access_token_env", "access_token"),
    ("endpoint", "region"),
)
"""Keys that exclude each other: an entry with one of them has no default of the others."""


def _merged(defaults: Mapping[str, Any], entry: Entry) -> Entry:
    """Return the entry with the defaults, as files of a gateway have them."""
    hidden = {key for group in _GROUPS if not entry.keys().isdisjoint(group) for key in group}
    merged = {key: value for key, value in defaults.items() if key not in hidden} | entry
    for key in _TABLES:
        if isinstance(defaults.get(key), dict) and isinstance(entry.get(key), dict):
            merged[key] = {**defaults[key], **entry[key]}
    return merged


def _complete(entry: Entry, name: str, folder: Path, environ: Mapping[str, str]) -> Entry:
    """Return the entry with its token in it, and absolute paths."""
    given = dict(entry)
    about = f"{name}: tunnel[{given.get('name', '?')}]"
    path, variable = given.pop("access_token_file", None), given.pop("access_token_env", None)
    if isinstance(path, str):
        given["access_token"] = reach.read_token(folder / path, f"{about}.access_token_file")
    elif isinstance(variable, str):
        token = environ.get(variable, "").strip()
        if not token:
            raise ConfigError(f"{about}.access_token_env: the variable {variable} is not set")
        given["access_token"] = token
    if isinstance(given.get("ca"), str):
        given["ca"] = str((folder / given["ca"]).absolute())
    services = given.get("services")
    if isinstance(services, dict):
        given["services"] = {
            key: _absolute(value, folder) if isinstance(value, str) else value
            for key, value in services.items()
        }
    return given


def _absolute(address: str, folder: Path) -> str:
    if address.startswith("unix:"):
        return f"unix:{(folder / address.removeprefix('unix:')).absolute()}"
    return address


STDIN: Final = "-"
TOKEN_VARIABLE: Final = "TUNNELFLEET_ACCESS_TOKEN"  # noqa: S105 - the name of a variable
MAX_TOKEN_LINE: Final = 65_536
SHOWN_NAMES: Final = 12
"""How many names are printed; the rest is counted."""

AllOption = Annotated[bool, typer.Option("--all", help="All tunnels.")]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Of the tunnels.")]


def add_command(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="TOML with [[tunnel]], or JSON; - for stdin."),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace tunnels of the same names that were added.")
    ] = False,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Add tunnels to a running gateway; they stay until `rm`, apart from its files.

    Each entry is added by itself: one that is wrong keeps no other away.
    """
    if file == STDIN:
        content, name, folder = sys.stdin.buffer.read(MAX_ENTRY_BYTES + 1), "stdin", Path()
    else:
        path = Path(file)
        try:
            with path.open("rb") as opened:
                content, name, folder = opened.read(MAX_ENTRY_BYTES + 1), file, path.parent
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    entries = read_entries(content, name, folder)
    status = errors.EXIT_OK
    rows: list[dict[str, Any]] = []
    with reach.gateway_at(gateway, gateway_token_file) as client:
        for entry in entries:
            try:
                rows.append(_add(client, entry, replace=replace))
            except GatewayRefused as error:
                status = max(status, _tell_refusal(error, name, entry))
            else:
                if not as_json:
                    say(f"added {rows[-1].get('name')}")
    if as_json:
        write_json([ordered(row) for row in rows])
    return status


def _add(client: GatewayClient, entry: dict[str, Any], *, replace: bool) -> dict[str, Any]:
    name = entry.get("name")
    if replace and isinstance(name, str) and name:
        return client.replace(name, entry)
    return client.add(entry)


def _tell_refusal(error: GatewayRefused, name: str, entry: dict[str, Any]) -> int:
    """Say what is wrong with an entry; returns the exit status."""
    about = f"tunnel[{entry.get('name', '?')}]"
    if error.status in (http.HTTPStatus.UNPROCESSABLE_ENTITY, http.HTTPStatus.BAD_REQUEST):
        problems = error.members.get("problems")
        found = [each for each in problems or () if isinstance(each, dict)]
        for each in found or [{"message": error.detail}]:
            key = str(each.get("key") or about)
            note(errors.one_line(f"{name}: {key}: {each.get('message') or each.get('text')}"))
        return errors.EXIT_USAGE
    what = "there is one of this name: " if error.status == http.HTTPStatus.CONFLICT else ""
    note(errors.one_line(f"{name}: {about}: {what}{reach.refused(error)}"))
    return errors.EXIT_FAILURE


def rm_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Of the tunnels.")],
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Remove tunnels that were added to a running gateway; they drain first.

    A tunnel of the gateway's files is removed there.
    """
    removed: list[str] = []
    status = errors.EXIT_OK
    with reach.gateway_at(gateway, gateway_token_file) as client:
        for name in names:
            try:
                with reach.known_name(client, name):
                    client.remove(name)
            except (GatewayRefused, errors.CommandFailed) as error:
                text = reach.refused(error) if isinstance(error, GatewayRefused) else str(error)
                note(errors.one_line(f"{name}: {text}"))
                status = errors.EXIT_FAILURE
            else:
                removed.append(name)
    if as_json:
        write_json({"removed": removed})
    elif removed:
        say(f"removed {_listed(removed)}")
    return status


def drain_command(
    names: NamesArgument = None,
    all_: AllOption = False,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Let tunnels take no new connections and end with the last one; `retry` starts them again."""
    chosen = _chosen(names, all_)
    with reach.gateway_at(gateway, gateway_token_file) as client:
        done = _named(client, chosen, drain=True)
    _tell("draining", done, "no tunnel runs", as_json=as_json)
    return errors.EXIT_OK


def retry_command(
    names: NamesArgument = None,
    all_: AllOption = False,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Try tunnels that are down now, without waiting for their time; the others go on."""
    chosen = _chosen(names, all_)
    with reach.gateway_at(gateway, gateway_token_file) as client:
        done = _named(client, chosen, drain=False)
    _tell("trying", done, "none is down", as_json=as_json)
    return errors.EXIT_OK


def _chosen(names: Sequence[str] | None, all_: bool) -> list[str] | None:
    """Return the names, or None for all."""
    if bool(names) == all_:
        hint = "give names or --all, not both" if all_ else "name the tunnels, or give --all"
        raise ConfigError(hint)
    return None if all_ else list(names or ())


def _named(client: GatewayClient, names: list[str] | None, *, drain: bool) -> list[str]:
    try:
        return client.drain(names) if drain else client.retry(names)
    except GatewayRefused as error:
        if error.status != http.HTTPStatus.NOT_FOUND or names is None:
            raise
        known = {str(row.get("name")) for row in client.tunnels()}
        unknown = [name for name in names if name not in known]
        raise errors.CommandFailed(reach.unknown_names(unknown or names, client)) from None


def _tell(what: str, names: Sequence[str], nothing: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"tunnels": list(names)})
    elif names:
        say(f"{what} {_listed(names)}")
    else:
        note(nothing)


def _listed(names: Sequence[str]) -> str:
    if len(names) <= SHOWN_NAMES:
        return ", ".join(names)
    return f"{counted(len(names), 'tunnel')}: {', '.join(names[:SHOWN_NAMES])}, …"


class ReplaceTokenCommand(TyperCommand):
    """The command `replace-token`, which repeats no token that was given as an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; more of them than there can be are a token, perhaps."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args:
            raise ConfigError(
                "a token is no argument: other users can read it in the list of processes, and it "
                "is in your shell's history now; rotate it, and give the new one by --token-file, "
                "a variable, or standard input"
            )
        return rest


def replace_token_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the tunnel.")],
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="File with the access token."),
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(
            "--token-env",
            metavar="NAME",
            help=f"Variable with the access token; {TOKEN_VARIABLE} is looked at without it.",
        ),
    ] = None,
    client_token_file: Annotated[
        Path | None,
        typer.Option("--client-token-file", metavar="FILE", help="File with a client token."),
    ] = None,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Give a tunnel another access token after a rotation; it connects at once.

    The token comes from --token-file, from a variable, or from standard input, where a terminal
    does not show it. It is never an argument, which others could read.
    """
    access_token = _access_token(token_file, token_env, name)
    client_token = client_token_file and reach.read_token(client_token_file, "--client-token-file")
    with reach.gateway_at(gateway, gateway_token_file) as client, reach.known_name(client, name):
        row = client.replace_token(name, access_token, client_token or None)
    if as_json:
        write_json(ordered(row))
    else:
        say(f"{name} has another token and connects with it")
    return errors.EXIT_OK


def _access_token(path: Path | None, variable: str | None, name: str) -> str:
    if path is not None and variable is not None:
        raise ConfigError("give --token-file or --token-env, not both")
    if path is not None and str(path) != STDIN:
        return reach.read_token(path, "--token-file")
    if path is None:
        token = os.environ.get(variable or TOKEN_VARIABLE, "").strip()
        if token:
            return token
        if variable is not None:
            raise ConfigError(f"--token-env: the variable {variable} is not set, or empty")
    if sys.stdin.isatty():
        token = getpass.getpass(f"Access token of {name} (it is not shown): ")
    else:
        token = sys.stdin.readline(MAX_TOKEN_LINE)
    if not token.strip():
        raise ConfigError("no token was given; --token-file and --token-env are other ways")
    return token.strip()
