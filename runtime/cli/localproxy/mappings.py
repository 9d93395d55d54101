"""Which service goes where: the mappings of `-s`, `-d` and `--config-dir`.

Owns their spelling, which is localproxy's (`SSH=5555,HTTP=8080`, `5555`, `SSH = 22` lines in
files), and the rule that joins them: the command line first, then the files in the order of their
names, the first mapping of a service id wins. In a directory anything else may lie as well: what
is no mapping is left out, and said. Must not know tunnels. `read_directory` and `read_text` alone
touch the file system.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tunnelfleet.actors.addresses import Address, parse_address
from tunnelfleet.actors.config import ANY_SERVICE
from tunnelfleet.proto import ConfigError

from .options import MAX_SHOWN_LENGTH, Assignment, Given, read_assignments

DEFAULT_DIRECTORY = "config"
"""Read when it exists and neither `--config-dir` nor a mapping is given, as localproxy does."""


class MappingFile(NamedTuple):
    """A file of a configuration directory; `problem` says why it could not be read."""

    name: str
    text: str
    problem: str = ""


class FoundMappings(NamedTuple):
    """What the files of a configuration directory hold.

    Attributes:
        addresses: service id -> address as written.
        warnings: for people: what is no mapping and was left out.
        notes: for people: what is mapped more than once.
    """

    addresses: dict[str, Given]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_mapping(given: Given) -> dict[str, Given]:
    """Read the value of `-s` or `-d`.

    Returns:
        service id -> address as written; `ANY_SERVICE` is the key of an address that stands alone.

    Raises:
        ConfigError: it is neither one address nor `SERVICE=ADDRESS` pairs, or names one twice.
    """
    parts = [part.strip() for part in given.text.split(",") if part.strip()]
    if len(parts) == 1 and "=" not in parts[0]:
        return {ANY_SERVICE: Given(parts[0], given.origin, given.rank)}
    mapping: dict[str, Given] = {}
    for part in parts:
        service_id, address = _pair(given, part)
        if service_id in mapping:
            raise given.error(f"service {service_id!r} is mapped twice; keep one")
        mapping[service_id] = Given(address, given.origin, given.rank)
    if not mapping:
        raise given.error("no address; write for example 5555 or SSH=5555,HTTP=8080")
    return mapping


def _pair(given: Given, part: str) -> tuple[str, str]:
    service_id, _, address = (piece.strip() for piece in part.partition("="))
    if not service_id or not address or "=" in address:
        raise given.error(f"{part!r} is not SERVICE=ADDRESS; write for example SSH=5555,HTTP=8080")
    return service_id, address


def parse_files(files: Iterable[MappingFile], *, sections: bool = True) -> FoundMappings:
    """Join the mappings of a configuration directory's files.

    Args:
        files: in the order in which the first mapping of a service id wins.
        sections: whether lines below a `[section]` count, which localproxy does not look at.
    """
    mapping: dict[str, Given] = {}
    warnings: list[str] = []
    notes: list[str] = []
    for file in files:
        try:
            lines = _lines_of(file, sections=sections)
        except ConfigError as error:
            warnings.append(f"skipped {file.name}, which holds no mappings: {error}")
            continue
        for line in lines:
            given = Given(line.value, line.origin)
            problem = _problem(line.key, given)
            if problem:
                warnings.append(f"{given.error(problem)}; the line is left out")
            elif line.key in mapping:
                notes.append(
                    f"{line.origin}: service {line.key!r} is already mapped at "
                    f"{mapping[line.key].origin}; this one is not used"
                )
            else:
                mapping[line.key] = given
    return FoundMappings(mapping, tuple(warnings), tuple(notes))


def _lines_of(file: MappingFile, *, sections: bool) -> list[Assignment]:
    if file.problem:
        raise ConfigError(file.problem)
    found = read_assignments(file.text, file.name)
    return [line for line in found if sections or not line.section]


def _problem(service_id: str, given: Given) -> str:
    """Return what is wrong with a line, or an empty text."""
    if not given.text:
        return f"service {service_id!r} has no address"
    try:
        parse_address(given.text)
    except ConfigError as error:
        return str(error)
    return ""


MAX_FILES = 1_000


def read_directory(directory: str | os.PathLike[str]) -> list[MappingFile]:
    """Read the files of a configuration directory and those below it, in order of their paths.

    Raises:
        ConfigError: it is no directory, or has no or too many files.
    """
    shown = _shown(directory)
    if not os.path.isdir(directory):
        raise ConfigError(f"{shown} is not a directory; create it or change --config-dir")
    try:
        from pathlib import Path  # noqa: PLC0415 - with what it loads 1 MB, for few runs

        found = (path for path in Path(directory).rglob("*") if path.is_file())
        paths = sorted(itertools.islice(found, MAX_FILES + 1))
    except OSError as error:
        raise ConfigError(f"cannot read {shown}: {error.strerror}") from error
    if not paths:
        raise ConfigError(
            f"{shown} has no files; put one with lines like SSH = 22 into it, "
            "or leave out --config-dir"
        )
    if len(paths) > MAX_FILES:
        raise ConfigError(f"{shown} has more than {MAX_FILES} files; use one with mappings alone")
    return [_read_file(str(path)) for path in paths]


def _read_file(path: str) -> MappingFile:
    try:
        return MappingFile(path, read_text(path))
    except ConfigError as error:
        return MappingFile(path, "", str(error))


MAX_FILE_BYTES = 1_048_576


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not text, or is too large to be a configuration file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes; is it the right file?")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {_shown(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8; is it the right file?") from error


def _shown(path: str | os.PathLike[str]) -> str:
    """The path, unless it looks like a token in the wrong place: long, and without `/` and `.`."""
    text = str(path)
    is_path = len(text) <= MAX_SHOWN_LENGTH or "/" in text or "." in text
    return text if is_path else f"{text[:4]}..."


MAX_SERVICE_ID_LENGTH = 128
_HOST = re.compile(r"[A-Za-z0-9.-]*[A-Za-z][A-Za-z0-9.-]*|[0-9]+(?:\.[0-9]+){3}")


def to_addresses(mapping: Mapping[str, Given], default_host: str) -> dict[str, Address]:
    """Return the mapping with its addresses read.

    Args:
        mapping: service id -> address as written.
        default_host: the host of an address that is just a port.

    Raises:
        ConfigError: an address cannot be read; it says where it was given.
    """
    addresses: dict[str, Address] = {}
    for service_id, given in mapping.items():
        if len(service_id) > MAX_SERVICE_ID_LENGTH or not service_id.isprintable():
            raise given.error(
                f"bad service id {service_id!r}: "
                f"at most {MAX_SERVICE_ID_LENGTH} printable characters"
            )
        try:
            addresses[service_id] = parse_address(given.text, default_host=default_host)
        except ConfigError as error:
            text = given.text
            if _HOST.fullmatch(text):
                # localproxy accepts it and fails at the first connection.
                raise given.error(f"{text!r} has no port; write for example {text}:22") from error
            raise given.error(str(error)) from error
    return addresses
