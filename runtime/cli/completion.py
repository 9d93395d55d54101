"""`tunnelfleet completion bash|zsh|fish`, and the words that a shell then asks for.

Owns the scripts, and what can stand where the user presses the tab key: commands, options, values,
and names of tunnels when a gateway answers at once. A shell asks by running the program with
`_TUNNELFLEET_COMPLETE` set and the words so far as arguments, the last one perhaps empty; the
answers are lines: a word, a tabulator, what it means. `@files` asks the shell for names of files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from tunnelfleet.proto import ConfigError, TunnelError, printable

from .options import COMPLETE_VARIABLE

FILES: Final = "@files"
MAX_NAMES: Final = 2_000

Words = list[tuple[str, str]]
"""Words, each with what it means."""


class CommandLine(NamedTuple):
    """What the program can be asked for.

    Attributes:
        helps: the commands, and what each does.
        parameters: of a command, as typer has them.
    """

    helps: Mapping[str, str]
    parameters: Callable[[str], Sequence[Any]]


def complete(words: Sequence[str], line: CommandLine) -> None:
    """Answer a shell.

    Args:
        words: the arguments so far; the last one is being written.
        line: what there is.
    """
    is_bash = os.environ.get(COMPLETE_VARIABLE, "") == "bash"
    found = _for_bash(words, line) if is_bash else candidates(words, line)
    lines = [f"{printable(word)}\t{printable(meaning)}\n" for word, meaning in found]
    sys.stdout.write("".join(lines))


def _for_bash(words: Sequence[str], line: CommandLine) -> Words:
    """Return what the last word can become, of it what is behind the last character that parts."""
    given = _joined(words)
    start = max(given[-1].rfind(each) for each in "=:") + 1 if given else 0
    found = candidates(given, line)
    return [(word if word == FILES else word[start:], meaning) for word, meaning in found]


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words as the user wrote them: bash makes three of `unix:PATH`."""
    joined: list[str] = []
    glues = False
    for number, word in enumerate(words):
        is_parting = word in ("=", ":")
        # `--sort =` has a blank that is not seen here; it is rare, and not worth more.
        if joined and (glues or is_parting) and number > 0:
            joined[-1] += word
        else:
            joined.append(word)
        glues = is_parting
    return joined


def candidates(words: Sequence[str], line: CommandLine) -> Words:
    """Return what the last word can become."""
    before, current = list(words[:-1]), words[-1] if words else ""
    if " ".join(before[:2]) in line.helps:
        before[:2] = [" ".join(before[:2])]
    name = next((word for word in before if not word.startswith("-")), None)
    if name is None and current.startswith("-"):
        return _starting([("--help", "Show help."), ("--version", "Print the version.")], current)
    if name is None:
        return _starting(_first_words(line), current)
    if name not in line.helps:
        return _starting(_second_words(name, line), current)
    return _of_command(name, line.parameters(name), before[before.index(name) + 1 :], current)


def _first_words(line: CommandLine) -> Words:
    """Return how commands begin: those of two words, such as `ray up`, by the first one."""
    found: dict[str, str] = {}
    for command, meaning in line.helps.items():
        first, _blank, second = command.partition(" ")
        found.setdefault(first, f"{command}, ..." if second else meaning)
    return list(found.items())


def _second_words(first: str, line: CommandLine) -> Words:
    commands = [(command.partition(" "), meaning) for command, meaning in line.helps.items()]
    return [(words[2], meaning) for words, meaning in commands if words[0] == first and words[2]]


def _of_command(name: str, parameters: Sequence[Any], before: Sequence[str], current: str) -> Words:
    options = _spellings(parameters)
    given = dict(_given(before, options))
    head, is_assigned, value = current.partition("=")
    if is_assigned and head in options:
        return _assigned(head, _values(name, head, value, given))
    last = before[-1] if before else ""
    if last in options and not options[last].is_flag:
        return _values(name, last, current, given)
    if current.startswith("-"):
        found = [(spelling, each.help or "") for spelling, each in options.items()]
        return _starting([*found, ("--help", "Show help.")], current)
    return _arguments(name, current, given)


def _given(before: Sequence[str], options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the options that have been written, with their values."""
    found = []
    for number, word in enumerate(before):
        head, is_assigned, value = word.partition("=")
        if is_assigned and head in options:
            found.append((head, value))
        elif word in options and number + 1 < len(before):
            found.append((word, before[number + 1]))
    return found


NAMED: Final = frozenset(
    [
        "ls",
        "show",
        "rm",
        "retry",
        "drain",
        "replace-token",
        "logs",
        "connections",
        "audit",
        "connect",
    ]
)
"""Commands whose arguments are names of tunnels."""
_WITH_FILES: Final = frozenset(["up", "check", "add"])
_CHOICES: Final = {
    "--kind": ("connection", "stream", "denied", "demand"),
    "--log-level": ("debug", "info", "warning", "error"),
    "--level": ("debug", "info", "warning", "error"),
    "--mode": ("source", "destination"),
    "--state": (
        "connecting",
        "connected",
        "backoff",
        "refused",
        "quarantined",
        "draining",
        "stopped",
    ),
}
_OF_LOCALPROXY: Final = {
    "-m": _CHOICES["--mode"],
    "--mode": _CHOICES["--mode"],
    "-y": ("V1", "V2", "V3"),
    "--destination-client-type": ("V1", "V2", "V3"),
}


def _assigned(head: str, values: Words) -> Words:
    """Return the values of an option as `--option=VALUE`."""
    return [(word if word == FILES else f"{head}={word}", meaning) for word, meaning in values]


def _spellings(parameters: Sequence[Any]) -> dict[str, Any]:
    """Return the options among the parameters of a command, by each way to write them."""
    return {
        spelling: parameter
        for parameter in parameters
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }


def _values(command: str, option: str, current: str, given: Mapping[str, str]) -> Words:
    """Return what an option can be given."""
    choices = _OF_LOCALPROXY if command == "localproxy" else _CHOICES
    if option in choices:
        return _starting([(each, "") for each in choices[option]], current)
    if option == "--source":
        return _starting([(each, "") for each in _sources()], current)
    if option == "--sort":
        return _starting([(each, "") for each in _orders(command)], current)
    if option == "--label":
        return _starting([(each, "") for each in _labels(given)], current)
    if option in ("--name", "--tunnel") and command != "service":
        return _tunnels(current, given)
    return [(FILES, "")]


def _orders(command: str) -> Sequence[str]:
    from .gateway.rows import SORTS, STILL_SORTS  # noqa: PLC0415 - only here

    return STILL_SORTS if command == "ls" else SORTS


def _sources() -> Sequence[str]:
    from tunnelfleet.runtime.gateway.listing import SOURCES  # noqa: PLC0415 - only here

    return SOURCES


def _labels(given: Mapping[str, str]) -> list[str]:
    """Return the labels of the gateway's tunnels."""
    labels = (row.get("labels") or {} for row in _rows(given))
    return sorted({f"{key}={value}" for each in labels for key, value in each.items()})[:MAX_NAMES]


def _arguments(name: str, current: str, given: Mapping[str, str]) -> Words:
    if name == "connect" and ":" in current:
        return _services(current, given)
    if name in NAMED:
        return _tunnels(current, given)
    if name == "completion":
        return _starting([(each, "") for each in SCRIPTS], current)
    return [(FILES, "")] if name in _WITH_FILES else []


def _tunnels(current: str, given: Mapping[str, str]) -> Words:
    found = [(str(row.get("name")), str(row.get("state", ""))) for row in _rows(given)]
    return _starting(found, current)[:MAX_NAMES]


def _services(current: str, given: Mapping[str, str]) -> Words:
    """Return the services of the tunnel that has been named, as `NAME:SERVICE`."""
    name = current.partition(":")[0]
    services = (row.get("services") or {} for row in _rows(given) if row.get("name") == name)
    return _starting([(f"{name}:{each}", "") for some in services for each in some], current)


ANSWER_SECONDS: Final = 1.0
"""Whoever presses a key does not wait longer for a gateway."""
GATEWAY_OPTIONS: Final = ("--gateway", "--gateway-token-file")


def _rows(given: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the tunnels of the gateway that is meant; none if it does not answer at once."""
    from pathlib import Path  # noqa: PLC0415 - only here

    from .gateway.reach import gateway_at  # noqa: PLC0415 - only who presses a key for a name

    address, token_file = (given.get(each) for each in GATEWAY_OPTIONS)
    try:
        with gateway_at(
            address, Path(token_file) if token_file else None, answer_seconds=ANSWER_SECONDS
        ) as client:
            return client.tunnels()
    except (TunnelError, OSError):
        return []


def _starting(words: Sequence[tuple[str, str]], current: str) -> Words:
    return [each for each in words if each[0].startswith(current)]


SCRIPTS: Final = {
    "bash": """\
# Completion of tunnelfleet for bash. For every shell to come:
#   tunnelfleet completion bash > ~/.local/share/bash-completion/completions/tunnelfleet
# For this one: source <(tunnelfleet completion bash)
_tunnelfleet() {
    local line word words=() current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS= read -r line; do
        word="${line%%$'\\t'*}"
        if [[ "$word" == "@files" ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
        elif [[ -n "$word" ]]; then
            COMPREPLY+=("$(printf '%q' "$word")")
        fi
    done < <(_TUNNELFLEET_COMPLETE=bash "${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:COMP_CWORD}" \\
        2>/dev/null </dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _tunnelfleet tunnelfleet
""",
    "zsh": """\
#compdef tunnelfleet
# Completion of tunnelfleet for zsh. For every shell to come, in a folder of $fpath:
#   tunnelfleet completion zsh > ~/.zfunc/_tunnelfleet
# For this one: source <(tunnelfleet completion zsh)
_tunnelfleet() {
    local line word meaning
    local -a described
    while IFS= read -r line; do
        word="${line%%$'\\t'*}"
        meaning="${line#*$'\\t'}"
        if [[ "$word" == "@files" ]]; then
            _files
        elif [[ -n "$word" ]]; then
            described+=("${word//:/\\\\:}:$meaning")
        fi
    done < <(_TUNNELFLEET_COMPLETE=zsh "${words[1]}" "${(@)words[2,CURRENT]}" \\
        2>/dev/null </dev/null)
    (( ${#described} )) && _describe -V 'tunnelfleet' described
    return 0
}
if [[ "$funcstack[1]" == "_tunnelfleet" ]]; then
    _tunnelfleet "$@"
else
    compdef _tunnelfleet tunnelfleet
fi
""",
    "fish": """\
# Completion of tunnelfleet for fish. For every shell to come:
#   tunnelfleet completion fish > ~/.config/fish/completions/tunnelfleet.fish
# For this one: tunnelfleet completion fish | source
function __tunnelfleet_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (env _TUNNELFLEET_COMPLETE=fish $words[1] $words[2..-1] "$current" \\
            2>/dev/null </dev/null)
        if string match -q '@files*' -- $line
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c tunnelfleet -f -a '(__tunnelfleet_complete)'
""",
}


def completion_command(
    shell: Annotated[
        str, typer.Argument(metavar="bash|zsh|fish", help="The shell that it is for.")
    ],
) -> None:
    """Print what makes a shell complete commands, options and names of tunnels.

    Its first lines say where to put it.
    """
    if shell not in SCRIPTS:
        raise ConfigError(f"{shell}: write one of {', '.join(SCRIPTS)}")
    sys.stdout.write(SCRIPTS[shell])
