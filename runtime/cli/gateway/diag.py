"""`tunnelfleet diag`: one zip with all that a bug report needs, and no token.

Owns what is gathered and where from, what counts as a token and is taken out, and how the zip is
written: for its owner alone, never over a file that is there. What cannot be had is named in it,
with the reason, and keeps nothing else out.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import resource
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tunnelfleet.proto import ConfigError, TunnelError, counted, printable
from tunnelfleet.proto.text import HIDDEN
from tunnelfleet.runtime.cli.errors import EXIT_OK, CommandFailed, cannot_write
from tunnelfleet.runtime.gateway.api.address import GatewayAddress, GatewayRefused
from tunnelfleet.runtime.gateway.api.client import GatewayClient
from tunnelfleet.version import version_line

from . import reach
from .screen import note, say, write_json

_SECRET_NAME: Final = re.compile(
    r"token|secret|password|passwd|authorization|cookie", re.IGNORECASE
)
_ASSIGNED: Final = re.compile(
    r"""(?ix) ( (?: [\w-]*[_-](?:token|secret)[\w-]* | password | passwd | authorization ) ["']?
                \s* [=:] \s* | \b(?:token|secret)= )
        ( "[^"\n]*" | '[^'\n]*' | (?:bearer\s+)? [^\s"',;]+ )"""
)
_BEARER: Final = re.compile(r"(?i)(\bbearer\s+)([^\s\"',;]+)")
_USER_INFO: Final = re.compile(r"(?<=://)[^\s/@\"']+@")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_=-]{16,}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
LONG_CHARACTERS: Final = 32
"""A word of letters and digits that is as long is taken for a token; client tokens begin here."""
SHORTEST_SECRET: Final = 8
_PUBLIC: Final = "channel-id "
_PUBLIC_KEYS: Final = frozenset({"channel_id"})
"""The service's name for a link is no secret, and its support asks for it."""
_FILE_SUFFIX: Final = ("_file", "_env", "_seconds", "_total", "_bucket", "_count", "_created")
"""Names that speak of a secret and have none."""


class Scrubber:
    """Hides tokens.

    Args:
        secrets: that are known, such as those in the files of the gateway.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = {each for each in secrets if len(each) >= SHORTEST_SECRET}
        self._long = sorted(self._secrets, key=len, reverse=True)

    def __repr__(self) -> str:
        return "Scrubber(...)"

    def value(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without tokens; `key` is the field that it stands in."""
        if isinstance(value, dict):
            return {self.text(str(each)): self.value(one, str(each)) for each, one in value.items()}
        if isinstance(value, list):
            return [self.value(each, key) for each in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        if key in _PUBLIC_KEYS and value not in self._secrets:
            return str(value)
        if _SECRET_NAME.search(key) and not key.endswith(_FILE_SUFFIX):
            return HIDDEN
        return self.text(str(value))

    def text(self, text: str) -> str:
        """Return a text of any length without tokens; its lines stay."""
        text = _USER_INFO.sub(f"{HIDDEN}@", text)
        text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
        text = _ASSIGNED.sub(self._assigned, text)
        text = _RUN.sub(self._run, text)
        for secret in self._long:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    @staticmethod
    def _assigned(found: re.Match[str]) -> str:
        name = found[1].rstrip(" =:\t\"'")
        is_harmless = name.lower().endswith(_FILE_SUFFIX)
        return found[0] if is_harmless else f"{found[1]}{HIDDEN}"

    def _run(self, found: re.Match[str]) -> str:
        word = found[0]
        if word in self._secrets:
            return HIDDEN
        if len(word) < LONG_CHARACTERS or _UUID.fullmatch(word):
            return word
        if found.string[: found.start()].endswith(_PUBLIC):
            return word
        # The way to a file has short parts; base64 with a slash in it seldom has.
        longest = max(word.split("/"), key=len)
        has_both = any(c.isdigit() for c in word) and any(c.isalpha() for c in word)
        is_path = word.startswith("/") and len(longest) < LONG_CHARACTERS
        return HIDDEN if has_both and not is_path else word


ANSWER_SECONDS: Final = 15.0
RECENT_EVENTS: Final = 1_000
MAX_PART_CHARACTERS: Final = 16_000_000
"""The longest file in the zip; its end says that the rest was left out."""
MAX_SECRET_FILE_BYTES: Final = 65_536
MAX_TOML_BYTES: Final = 16_000_000
MAX_FILES: Final = 10_000
_PACKAGES: Final = (
    "aiohttp",
    "boto3",
    "cryptography",
    "paho-mqtt",
    "prometheus-client",
    "protobuf",
    "psycopg",
    "pydantic",
    "pykka",
    "rich",
    "sqlalchemy",
    "typer",
    "uvloop",
    "watchfiles",
    "websocket-client",
)
_VARIABLES: Final = (
    "LANG",
    "LC_ALL",
    "TERM",
    "NO_COLOR",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    reach.GATEWAY_VARIABLE,
)
"""The variables of the environment that are shown."""
_SECRET_VARIABLES: Final = (
    reach.TOKEN_VARIABLE,
    "TUNNELFLEET_ACCESS_TOKEN",
    "AWSIOT_TUNNEL_ACCESS_TOKEN",
)
_SECRET_KEYS: Final = ("access_token", "client_token")
_PROC: Final = ("limits", "status")
_README: Final = """This is what `tunnelfleet diag` found, for a report of a bug.

It has no token, no content of a connection, and no file of the configuration. It has names of
tunnels, labels, addresses, and the lines of the log: look through it before you publish it.
`missing.txt`, if it is here, says what could not be had.
"""

Parts = dict[str, str]


def diag_command(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; a new name without it."),
    ] = None,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: reach.JsonOption = False,
) -> int:
    """Write a zip with all that a bug report needs; tokens are taken out.

    It works without a gateway too: then it has what this machine says.
    """
    path = out or Path(time.strftime("tunnelfleet-diag-%Y%m%d-%H%M%S.zip"))
    parts, missing = gather(gateway, gateway_token_file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; name another file with --out") from None
    except OSError as error:
        raise cannot_write("--out", path, error) from None
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(_zipped(parts))
    if as_json:
        write_json({"file": str(path), "parts": sorted(parts), "missing": missing})
        return EXIT_OK
    say(f"{path}: {', '.join(sorted(parts))}")
    for name, reason in missing.items():
        note(f"without {name}: {reason}")
    return EXIT_OK


def gather(gateway: str | None, token_file: Path | None) -> tuple[Parts, dict[str, str]]:
    """Return all parts by name, without tokens, and why others are missing.

    Raises:
        ConfigError: an option is wrong; that a gateway does not answer is no error.
    """
    missing: dict[str, str] = {}
    found: dict[str, Any] = {
        "version.txt": version_line(),
        "platform.json": _platform(),
        "limits.json": _limits(),
    }
    files: list[str] = []
    try:
        with reach.gateway_at(gateway, token_file, answer_seconds=ANSWER_SECONDS) as client:
            _ask_all(client, found, missing)
    except CommandFailed as error:
        missing["gateway"] = str(error)
    about = found.get("gateway.json")
    if isinstance(about, dict):
        config = about.get("config")
        files = config.get("files", []) if isinstance(config, dict) else []
        found |= _process(about.get("pid"), missing)
        _ask_metrics(found, files, missing)
    scrubber = Scrubber(known_secrets(files))
    missing = {key: scrubber.text(value) for key, value in missing.items()}
    parts = {name: _written(value, scrubber) for name, value in found.items()}
    parts["README.txt"] = _README
    if missing:
        lines = [f"{name}: {reason}" for name, reason in missing.items()]
        parts["missing.txt"] = "\n".join(lines) + "\n"
    return parts, missing


def _ask_all(client: GatewayClient, found: dict[str, Any], missing: dict[str, str]) -> None:
    # The first one raises when there is no gateway at all.
    found["gateway.json"] = client.gateway()
    asked: dict[str, Callable[[], Any]] = {
        "tunnels.json": client.tunnels,
        "actors.json": client.actors,
        "reload.json": lambda: _dry_run(client),
        "events.json": lambda: [
            {"id": each.id, **each.data}
            for each in client.events(recent=RECENT_EVENTS, only_past=True)
        ],
    }
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except GatewayRefused as error:
            missing[name] = reach.refused(error)
        except TunnelError as error:
            missing[name] = str(error)


def _ask_metrics(found: dict[str, Any], files: list[str], missing: dict[str, str]) -> None:
    """The metrics, from where the gateway says that they are."""
    name = "metrics.txt"
    url = _metrics_url(found, files)
    if url is None:
        missing[name] = "the gateway does not say where they are"
        return
    try:
        with GatewayClient(GatewayAddress.parse(url), answer_seconds=ANSWER_SECONDS) as client:
            found[name] = client.metrics()
    except GatewayRefused as error:
        missing[name] = f"{url}: {error}"
    except TunnelError as error:
        missing[name] = str(error)


def _metrics_url(found: dict[str, Any], files: list[str]) -> str | None:
    about = found["gateway.json"]
    if isinstance(about.get("metrics"), str):
        return str(about["metrics"])
    for event in reversed(found.get("events.json", [])):
        if event.get("event") == "metrics" and isinstance(event.get("url"), str):
            return str(event["url"])
    for document in _documents(files):
        settings = document.get("gateway")
        if isinstance(settings, dict) and isinstance(settings.get("metrics"), str):
            return f"http://{settings['metrics']}"
    return None


def _documents(files: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the files of the gateway that this user can read."""
    for name in files[:MAX_FILES]:
        path = Path(name)
        if path.suffix != ".toml":
            continue
        try:
            if path.stat().st_size <= MAX_TOML_BYTES:
                yield tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue


def _dry_run(client: GatewayClient) -> dict[str, Any]:
    """Return what a reload would change, or what is wrong with the files."""
    try:
        return client.reload(dry_run=True)
    except GatewayRefused as error:
        if "problems" not in error.members:
            raise
        return {"problems": error.members["problems"]}


def _platform() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": platform.platform(),
        "machine": platform.machine(),
        "python": sys.version,
        "cpus": os.cpu_count(),
        "user": os.geteuid(),
        "packages": versions,
        "environment": {key: os.environ[key] for key in _VARIABLES if key in os.environ},
    }


def _limits() -> dict[str, Any]:
    kinds = ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_AS", "RLIMIT_MEMLOCK", "RLIMIT_FSIZE")
    return {kind: list(resource.getrlimit(getattr(resource, kind))) for kind in kinds}


def _process(pid: object, missing: dict[str, str]) -> Parts:
    """What the kernel says of the gateway's process, if it is on this machine and ours to read."""
    found: Parts = {}
    if not isinstance(pid, int):
        return found
    folder = Path(f"/proc/{pid}")
    for name in _PROC:
        try:
            found[f"process-{name}.txt"] = (folder / name).read_text("utf-8", "replace")
        except OSError as error:
            missing[f"process-{name}.txt"] = f"{error.strerror}"
    try:
        count = len(os.listdir(folder / "fd"))  # noqa: PTH208 - counted, not walked
        found["process-files.txt"] = counted(count, "open file") + "\n"
    except OSError as error:
        missing["process-files.txt"] = f"{error.strerror}"
    return found


def known_secrets(files: list[str]) -> set[str]:
    """The secrets that this user can read anyway: in variables, and in files of the gateway."""
    secrets = {os.environ.get(name, "").strip() for name in _SECRET_VARIABLES}
    secrets |= {_secret_in(Path(name)) for name in files[:MAX_FILES]}
    for table in _entries(files):
        secrets |= {str(table[key]) for key in _SECRET_KEYS if key in table}
    return secrets - {""}


def _entries(files: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the tables that can have a token."""
    for document in _documents(files):
        entries = document.get("tunnel")
        tables = [document.get("defaults"), *(entries if isinstance(entries, list) else ())]
        yield from (table for table in tables if isinstance(table, dict))


def _secret_in(path: Path) -> str:
    """Return the token that is all that a file has, or nothing."""
    try:
        if path.suffix == ".toml" or path.stat().st_size > MAX_SECRET_FILE_BYTES:
            return ""
        content = path.read_text("utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""
    # One word is a token; a certificate, or whatever else is named, has more.
    return content.strip() if len(content.split()) == 1 else ""


def _written(value: Any, scrubber: Scrubber) -> str:
    if isinstance(value, str):
        text = scrubber.text(value)
    else:
        text = json.dumps(scrubber.value(value), indent=1)
    if len(text) > MAX_PART_CHARACTERS:
        text = f"{text[:MAX_PART_CHARACTERS]}\n... {len(text):,} characters in all\n"
    return text if text.endswith("\n") else text + "\n"


def _zipped(parts: Parts) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(parts):
            archive.writestr(printable(name), parts[name])
    return made.getvalue()
