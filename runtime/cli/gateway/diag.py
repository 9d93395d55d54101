"""`tunnelfleet diag`: one zip with all that a bug report needs, and no token.

Owns what is gathered and where from, and how the zip is written: for its owner alone, never over a
file that is there. What cannot be had is named in it, with the reason, and keeps nothing else out.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import resource
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tunnelfleet.proto import ConfigError, TunnelError, printable
from tunnelfleet.runtime.cli.errors import EXIT_OK, CommandFailed
from tunnelfleet.runtime.gateway.api.client import GatewayAddress, GatewayClient, GatewayRefused
from tunnelfleet.version import version_line

from .reach import (
    GATEWAY_VARIABLE,
    TOKEN_VARIABLE,
    GatewayOption,
    JsonOption,
    TokenFileOption,
    gateway_at,
    refused,
)
from .screen import note, say, write_json
from .scrub import Scrubber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["diag_command", "gather", "known_secrets"]

ANSWER_SECONDS: Final = 15.0
RECENT_EVENTS: Final = 1_000
MAX_PART_CHARACTERS: Final = 16_000_000
"""Of one file in the zip; the rest is left out, and that is said at its end."""
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
    GATEWAY_VARIABLE,
)
"""Of the environment nothing else is shown."""
_SECRET_VARIABLES: Final = (
    TOKEN_VARIABLE,
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
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
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
    """All parts by name, without tokens, and why others are missing.

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
        with gateway_at(gateway, token_file, answer_seconds=ANSWER_SECONDS) as client:
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
            missing[name] = refused(error)
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
    """The files of the gateway that this user can read."""
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
    """What a reload would change, or what is wrong with the files."""
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
        found["process-files.txt"] = f"{count} open files\n"
    except OSError as error:
        missing["process-files.txt"] = f"{error.strerror}"
    return found


def known_secrets(files: list[str]) -> set[str]:
    """The secrets that this user can read anyway: in variables, and in files of the gateway."""
    secrets = {os.environ.get(name, "").strip() for name in _SECRET_VARIABLES}
    for name in files[:MAX_FILES]:
        path = Path(name)
        try:
            if path.suffix == ".toml" or path.stat().st_size > MAX_SECRET_FILE_BYTES:
                continue
            content = path.read_text("utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError):
            continue
        # One word is a token; a certificate, or whatever else is named, has more.
        if len(content.split()) == 1:
            secrets.add(content.strip())
    for document in _documents(files):
        entries = document.get("tunnel")
        for table in [document.get("defaults"), *(entries if isinstance(entries, list) else ())]:
            if isinstance(table, dict):
                secrets |= {str(table[key]) for key in _SECRET_KEYS if key in table}
    return secrets - {""}


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
