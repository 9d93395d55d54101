"""Where the values of `tunnelfleet localproxy` come from: options, files, environment.

Owns the names of the options, which are those of AWS's localproxy, and their precedence: command
line over `--config` file over environment. Every value keeps its origin, so that a complaint about
it can say where it stands. Pure: it is given texts and mappings, reads no file and no environment,
and does not judge values.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnelfleet.proto import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


MAX_KEY_LENGTH = 128
MAX_SHOWN_LENGTH = 60
"""Of a value that an error repeats; the access tokens of AWS are longer."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it was given; the value may be a secret and is kept out of the repr.

    Attributes:
        text: the value as written, without surrounding blanks.
        origin: `option -t`, `FILE:LINE` or `environment variable NAME`.
        rank: 0 command line, 1 configuration file, 2 environment.
    """

    text: str = field(repr=False)
    origin: str
    rank: int = 0

    def error(self, problem: str) -> ConfigError:
        """Return the error that this value has `problem`.

        A long value is not repeated: it may be a token in the wrong place.
        """
        if len(self.text) > MAX_SHOWN_LENGTH:
            problem = problem.replace(self.text, f"{self.text[:4]}...")
        return ConfigError(f"{self.origin}: {problem}")


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its long name, which is its key in a file, its flag and its variables."""

    name: str
    flag: str
    variables: tuple[str, ...] = ()


OPTIONS = {
    option.name: option
    for option in (
        Option("access-token", "-t", ("AWSIOT_TUNNEL_ACCESS_TOKEN",)),
        # localproxy's documentation has the first name, its source has had the second.
        Option("client-token", "-i", ("AWSIOT_TUNNEL_CLIENT_TOKEN", "AWSIOT_CLIENT_TOKEN")),
        Option("proxy-endpoint", "-e", ("AWSIOT_TUNNEL_ENDPOINT",)),
        Option("region", "-r", ("AWSIOT_TUNNEL_REGION",)),
        Option("source-listen-port", "-s"),
        Option("destination-app", "-d"),
        Option("local-bind-address", "-b"),
        Option("capath", "-c"),
        Option("no-ssl-host-verify", "-k"),
        Option("verbose", "-v"),
        Option("mode", "-m"),
        Option("destination-client-type", "-y"),
        Option("config-dir", "--config-dir"),
        Option("settings-json", "--settings-json"),
        Option("bandwidth", "--bandwidth"),
        Option("payload-bytes", "--payload-bytes"),
        Option("no-marks", "--no-marks"),
        Option("admin", "--admin"),
        Option("admin-open", "--admin-open"),
    )
}

NOT_FOR_FILES = ("config", "export-default-settings", "help", "version")
"""Options that localproxy takes in a `--config` file too, and does not act on."""

OUR_OPTIONS = frozenset({"bandwidth", "payload-bytes", "no-marks", "admin", "admin-open"})
"""Those that localproxy does not have."""

LOCALPROXY_OPTIONS = frozenset(f"--{name}" for name in {*OPTIONS, *NOT_FOR_FILES} - OUR_OPTIONS)
"""What localproxy takes on the command line."""

FROM_COMMAND_LINE, FROM_FILE, FROM_ENVIRONMENT = 0, 1, 2


def collect(
    flags: Mapping[str, str | None], file: Mapping[str, Given], environ: Mapping[str, str]
) -> dict[str, Given]:
    """Return the value in force of each option that was given.

    Args:
        flags: long option name -> its value on the command line, None when it was not given.
        file: the values of the configuration file, see `parse_config`.
        environ: the environment; a variable that is empty counts as not set.
    """
    given: dict[str, Given] = {}
    for name, option in OPTIONS.items():
        flag = flags.get(name)
        if flag is not None:
            given[name] = Given(flag.strip(), f"option {option.flag}", FROM_COMMAND_LINE)
        elif name in file:
            given[name] = file[name]
        elif (value := from_environment(option.variables, environ)) is not None:
            given[name] = value
    return given


def from_environment(variables: Iterable[str], environ: Mapping[str, str]) -> Given | None:
    """Return the value of the first of `variables` that is set and not empty."""
    for variable in variables:
        text = environ.get(variable, "").strip()
        if text:
            return Given(text, f"environment variable {variable}", FROM_ENVIRONMENT)
    return None


def parse_config(text: str, file_name: str) -> tuple[dict[str, Given], list[str]]:
    """Read a `--config` file: `option = value` lines, comments after `#` or `;`.

    Args:
        text: the file's content.
        file_name: for the origin of values and errors.

    Returns:
        The values, and a note for people on each line that has no effect.

    Raises:
        ConfigError: a line is not of that form, names no option, or an option for the second time.
    """
    values: dict[str, Given] = {}
    notes: list[str] = []
    for line in read_assignments(text, file_name):
        if line.key in NOT_FOR_FILES:
            notes.append(f"{line.origin}: {line.key!r} has no effect in a file")
            continue
        if line.key in OPTIONS and not line.value:
            notes.append(f"{line.origin}: {line.key!r} has no value and counts as not given")
            continue
        if line.key not in OPTIONS:
            raise ConfigError(
                f"{line.origin}: there is no option {line.key!r}{suggest(line.key, OPTIONS)}"
            )
        if line.key in values:
            raise ConfigError(
                f"{line.origin}: {line.key!r} is already set at {values[line.key].origin}; keep one"
            )
        values[line.key] = Given(line.value, line.origin, FROM_FILE)
    return values, notes


@dataclass(frozen=True, slots=True)
class Assignment:
    """A `key = value` line of a file; the value may be empty.

    Attributes:
        key: without surrounding blanks.
        value: the same.
        origin: `FILE:LINE`.
        section: the last `[section]` above it, or an empty text.
    """

    key: str
    value: str = field(repr=False)
    origin: str
    section: str = ""


def read_assignments(text: str, file_name: str) -> Iterator[Assignment]:
    """Yield the `key = value` lines of an ini file.

    Raises:
        ConfigError: a line is neither blank, nor a comment, a `[section]` or an assignment. It
            does not repeat the line, which may hold a token.
    """
    section = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _without_comment(raw)
        origin = f"{file_name}:{number}"
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
            continue
        if not line:
            continue
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator or not 0 < len(key) <= MAX_KEY_LENGTH:
            raise ConfigError(f"{origin}: write it as NAME = VALUE")
        yield Assignment(key, value, origin, section)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the name nearest to `name`, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _without_comment(raw: str) -> str:
    line = raw.strip()
    if line.startswith(("#", ";")):
        return ""
    for mark in (" #", " ;", "\t#", "\t;"):
        line = line.partition(mark)[0]
    return line.strip()
