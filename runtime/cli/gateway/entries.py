"""Entries of tunnels that `tunnelfleet add` sends: TOML or JSON in, bodies of requests out.

Owns how a file for `add` is read. It is written as for `up`: `[[tunnel]]`, also with `[defaults]`;
the keys of a single tunnel may stand alone. Its tokens are read here and sent, since the gateway
reads no file and no variable for somebody who asks; paths are made absolute for it.
"""

from __future__ import annotations

import json
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.proto import ConfigError

from .reach import read_token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["MAX_ENTRY_BYTES", "read_entries"]

MAX_ENTRY_BYTES: Final = 8 * 1024 * 1024
_TABLES: Final = ("limits", "restart", "labels")
"""Tables of an entry that are merged with those of `[defaults]`, key by key."""
_GROUPS: Final = (
    ("access_token_file", "access_token_env", "access_token"),
    ("endpoint", "region"),
)
"""Who gives one of them means that one, and not the default beside it."""

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


def _merged(defaults: Mapping[str, Any], entry: Entry) -> Entry:
    """The entry with the defaults, as files of a gateway have them."""
    hidden = {key for group in _GROUPS if not entry.keys().isdisjoint(group) for key in group}
    merged = {key: value for key, value in defaults.items() if key not in hidden} | entry
    for key in _TABLES:
        if isinstance(defaults.get(key), dict) and isinstance(entry.get(key), dict):
            merged[key] = {**defaults[key], **entry[key]}
    return merged


def _complete(entry: Entry, name: str, folder: Path, environ: Mapping[str, str]) -> Entry:
    """The entry with its token in it, and absolute paths."""
    given = dict(entry)
    about = f"{name}: tunnel[{given.get('name', '?')}]"
    path, variable = given.pop("access_token_file", None), given.pop("access_token_env", None)
    if isinstance(path, str):
        given["access_token"] = read_token(folder / path, f"{about}.access_token_file")
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
