"""Where the values of `tunnelfleet localproxy` come from: options, files, environment.

Owns the table of the options, whose names are those of AWS's localproxy, and their precedence:
command line over `--config` file over environment. Every value keeps its origin, so that a
complaint about it can say where it stands. Pure: it is given texts and mappings, reads no file and
no environment, and does not judge values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.options import ADMIN, ADMIN_OPEN, Option

MAX_SHOWN_LENGTH = 60
"""How much of a value an error may repeat. The access tokens of AWS are longer."""


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


TABLE = (
    Option(
        name="access-token",
        short="-t",
        metavar="TOKEN",
        variables=("AWSIOT_TUNNEL_ACCESS_TOKEN",),
        help="Access token of this end; the environment hides it",
    ),
    Option(
        name="proxy-endpoint",
        short="-e",
        metavar="HOST[:PORT]",
        variables=("AWSIOT_TUNNEL_ENDPOINT",),
        help="The tunneling service; also a ws:// or wss:// URL",
    ),
    Option(
        name="region",
        short="-r",
        metavar="REGION",
        variables=("AWSIOT_TUNNEL_REGION",),
        help="AWS region of the tunnel; not together with -e",
    ),
    Option(
        name="source-listen-port",
        short="-s",
        metavar="MAPPING",
        help="Be the source; where to listen: SSH=5555,HTTP=8080 or 5555",
    ),
    Option(
        name="destination-app",
        short="-d",
        metavar="MAPPING",
        help="Be the destination; what to connect to: SSH=host:22,APP=/run/app.sock or 22",
    ),
    Option(
        name="local-bind-address",
        short="-b",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="Source: listen on it ({default}). Destination: connect from it",
        details="A source listens on a name at each of its addresses. The WebSocket is not bound "
        "to it.",
    ),
    Option(
        name="capath",
        short="-c",
        metavar="PATH",
        help="More certificate authorities: a directory or a PEM file",
        details="A service with an authority of its own needs it.",
    ),
    Option(
        name="no-ssl-host-verify",
        short="-k",
        help="Do not check the service's certificate. Not for production",
    ),
    Option(
        name="verbose",
        short="-v",
        metavar="LEVEL",
        default="4",
        help="0 off, 1 fatal, 2 error, 3 warning, 4 info, 5 debug, 6 trace; {default} unless given",
    ),
    Option(
        name="mode",
        short="-m",
        metavar="MODE",
        help="source (src) or destination (dst). -m source alone picks free ports",
    ),
    Option(
        name="destination-client-type",
        short="-y",
        metavar="V1|V2|V3",
        default="V3",
        help="What the destination speaks",
    ),
    Option(
        name="client-token",
        short="-i",
        metavar="TOKEN",
        # localproxy's documentation has the first name, its source has had the second.
        variables=("AWSIOT_TUNNEL_CLIENT_TOKEN", "AWSIOT_CLIENT_TOKEN"),
        help="Client token; generated when not given",
    ),
    Option(
        name="config",
        metavar="FILE",
        help="Read options from it, as NAME = VALUE lines; the command line wins",
        is_for_files=False,
    ),
    Option(
        name="config-dir",
        metavar="DIR",
        help="Read mappings from its files, as SSH = 22 lines (without -s and -d: ./config)",
    ),
    Option(name="settings-json", metavar="FILE", help="Read fine-grained settings from it"),
    Option(
        name="export-default-settings",
        metavar="FILE",
        help="Write the default settings to it and exit",
        is_for_files=False,
    ),
    Option(
        name="bandwidth",
        metavar="RATE",
        help="Pace what is sent: 800kbit/s, 100kB/s, or bytes a second",
        is_ours=True,
    ),
    Option(
        name="no-pacing",
        help="Do not find out by pings how fast to send",
        is_ours=True,
        details="--bandwidth takes its place where it is given.",
    ),
    Option(
        name="payload-bytes",
        metavar="N",
        default=str(Limits().data_payload_bytes),
        help="Largest payload of a message ({default}); 16384 suits a localproxy on a fast link",
        is_ours=True,
    ),
    Option(
        name="no-marks",
        help="Do not tell a cut connection from an ended one by `ignorable`",
        is_ours=True,
        details="Peers of another make do not look at that field "
        "([protocol.md](protocol.md) section 3a).",
    ),
    ADMIN,
    ADMIN_OPEN,
    Option(
        name="json",
        help="Write each event as a JSON object a line",
        is_ours=True,
        is_for_files=False,
    ),
    Option(name="version", short="-V", help="Print the version and exit", is_for_files=False),
)
"""Every option of the command. Its parameter, its help, its key in a file, its variables and its
row in docs/localproxy.md follow from the entry; `config` says what it means."""

OPTIONS = {each.name: each for each in TABLE if each.is_for_files}
"""The options whose value may come from the command line, a file or the environment."""

NOT_FOR_FILES = ("config", "export-default-settings", "help", "version")
"""Options that localproxy takes in a `--config` file too, and does not act on."""

LOCALPROXY_OPTIONS = frozenset(
    f"--{name}" for name in {*(each.name for each in TABLE if not each.is_ours), "help"}
)
"""What localproxy takes on the command line."""

FROM_COMMAND_LINE, FROM_FILE, FROM_ENVIRONMENT = 0, 1, 2


def collect(
    flags: Mapping[str, str | bool | None], file: Mapping[str, Given], environ: Mapping[str, str]
) -> dict[str, Given]:
    """Return the value in force of each option that was given.

    Args:
        flags: long option name -> its value on the command line, None or False when it was not
            given.
        file: the values of the configuration file, see `parse_config`.
        environ: the environment; a variable that is empty counts as not set.
    """
    given: dict[str, Given] = {}
    for name, option in OPTIONS.items():
        flag = flags.get(name)
        if flag is not None and flag is not False:
            text = "true" if flag is True else flag.strip()
            given[name] = Given(text, f"option {option.flag}", FROM_COMMAND_LINE)
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


MAX_KEY_LENGTH = 128


def read_assignments(text: str, file_name: str) -> Iterator[Assignment]:
    """Yield the `key = value` lines of an ini file.

    Raises:
        ConfigError: a line is neither blank, nor a comment, a `[section]` or an assignment. It
            does not repeat the line, which may hold a token.
    """
    section = ""
    for number, raw in enumerate(text.split("\n"), start=1):
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
    import difflib  # noqa: PLC0415 - few runs have anything to suggest

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _without_comment(raw: str) -> str:
    line = raw.strip()
    if line.startswith(("#", ";")):
        return ""
    for mark in (" #", " ;", "\t#", "\t;"):
        line = line.partition(mark)[0]
    return line.strip()
