"""How a command ends: by an error or a signal, with one line on stderr and an exit status.

    status  meaning
    0       done, or stopped by a signal that the command takes as "stop"
    1       it was asked for properly and failed
    2       it was not asked for properly: an option, a variable or a file has to be changed
    130     interrupted from the keyboard

A mistake of the user never shows a traceback; an error that this project did not foresee does,
because it is a bug and the traceback is its report. Owns also how a command handles signals while
it runs. It knows no command.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import CannotListen, ConfigError, TunnelError, printable
from tunnelfleet.version import PROGRAM

from .output import write_line

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _OfTyper(NamedTuple):
    """What typer raises: it was interrupted, it is done, and the base of what is a user's mistake.

    Where it is not loaded, it raises nothing: a command with a parser of its own does without.
    """

    abort: type[BaseException]
    exit: type[BaseException]
    mistake: type[Exception]

    @classmethod
    def now(cls) -> _OfTyper:
        """Return them."""
        typer: Any = sys.modules.get("typer")
        if typer is None:
            return cls(KeyboardInterrupt, _NeverRaised, _NeverRaised)
        # typer brings its own copy of click in newer releases and depends on click in older ones;
        # this base is in both.
        return cls(typer.Abort, typer.Exit, typer.BadParameter.__mro__[2])


class _NeverRaised(Exception):  # noqa: N818 - it is no error
    """Stands for what there is not."""


class CommandFailed(TunnelError):  # noqa: N818  an outcome, in the past tense, as TunnelClosed is
    """The command was asked for properly and failed; its text is what the user is told."""


_MACHINE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})
"""What no other name of a file helps against."""


def cannot_write(option: str, path: str | os.PathLike[str], error: OSError) -> TunnelError:
    """Return what is raised where the file that an option names cannot be written.

    It is a mistake of the user, as a file that cannot be read is, unless another file would not
    help: the disk is full, or fails.
    """
    text = f"{option}: cannot write {path}: {error.strerror or error}"
    if error.errno in _MACHINE:
        return CommandFailed(text)
    return ConfigError(f"{text}; name a file in a folder that this user may write")


NO_UTF_8 = "surrogates not allowed"
"""Why bytes that Python has kept in a text, since they are no UTF-8, cannot leave it."""


def run_guarded(call: Callable[[], object]) -> int:
    """Run a command and turn whatever ends it into an exit status.

    Args:
        call: the command; an integer that it returns is the status, anything else means `EXIT_OK`.

    Returns:
        The exit status, after at most one line on stderr.

    Raises:
        Exception: one that is neither a mistake of the user nor of the outside world, unchanged.
    """
    try:
        result = call()
    except (KeyboardInterrupt, _OfTyper.now().abort):
        return EXIT_INTERRUPTED
    except _OfTyper.now().exit as end:
        status: int = end.exit_code  # type: ignore[attr-defined]
        return status
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_FAILURE
    except UnicodeEncodeError as error:
        if error.reason != NO_UTF_8:
            raise
        # Which it was may not be shown: it may be a token.
        print_error("an argument, a variable or a line is not UTF-8: write it so")
        return EXIT_USAGE
    except (TunnelError, OSError, _OfTyper.now().mistake) as error:
        if _is_of_output(error):
            _discard_stdout()
        print_error(describe(error))
        return status_of(error)
    return result if type(result) is int else EXIT_OK


def status_of(error: Exception) -> int:
    """Return the exit status that tells a user's mistake from a failure."""
    is_mistake = isinstance(error, ConfigError | _OfTyper.now().mistake)
    return EXIT_USAGE if is_mistake and not isinstance(error, CannotListen) else EXIT_FAILURE


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _is_of_output(error: Exception) -> bool:
    # Files that are opened have a name; what is written to without one is standard output.
    return isinstance(error, OSError) and not error.filename and error.errno in _NO_ROOM


def describe(error: Exception) -> str:
    """Return the error in one line, without control characters and of bounded length."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename:
            return one_line(f"{error.filename}: {error.strerror}")
        what = "cannot write the output: " if _is_of_output(error) else ""
        return one_line(f"{what}{error.strerror}")
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        context = getattr(error, "ctx", None)
        command = PROGRAM if context is None else context.command_path
        # It has no text where the help was shown in its place.
        return one_line(f"{format_message() or 'name a command'} (see {command} --help)")
    return one_line(str(error) or type(error).__name__)


MAX_LINE_LENGTH = 1_000
"""Text from a peer may have any length, so a line for people is cut."""


def one_line(text: str) -> str:
    """Return `text` as one printable line of at most `MAX_LINE_LENGTH` characters."""
    return printable(text, MAX_LINE_LENGTH)


def print_error(line: str) -> None:
    """Print `line` on stderr as the program's error."""
    write_line(sys.stderr, f"{PROGRAM}: {line}")


def _discard_stdout() -> None:
    # It takes nothing more; without this the interpreter complains again when it flushes at exit,
    # and ends with a status of its own.
    # What a program has put in its place need not have a descriptor.
    with contextlib.suppress(OSError):
        descriptor = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""The signals that stop every command: Ctrl-C, and what supervisors of processes send."""


@contextlib.contextmanager
def deliver_signals(
    numbers: Iterable[signal.Signals], deliver: Callable[[signal.Signals], object]
) -> Iterator[None]:
    """Give each of these signals to `deliver` while the block runs."""

    def handle(number: int, _frame: FrameType | None) -> None:
        deliver(signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


ECHO_SECONDS: Final = 0.1
"""Faster than anybody presses a key twice."""


def without_echoes(
    deliver: Callable[[signal.Signals], object],
) -> Callable[[signal.Signals], None]:
    """Return what gives signals to `deliver`, without those that were only given twice.

    Who runs a command may give a stop signal twice: timeout(1) sends it to its child, and then to
    its process group, of which the child is a member. Nobody has asked to hurry then.
    """
    last: tuple[signal.Signals, float] | None = None

    def handle(number: signal.Signals) -> None:
        nonlocal last
        now = time.monotonic()
        before, last = last, (number, now)
        is_same = before is not None and number is before[0] and now - before[1] < ECHO_SECONDS
        if number not in STOP_SIGNALS or not is_same:
            deliver(number)

    return handle


@contextlib.contextmanager
def stop_signals(deliver: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Give the first SIGINT, SIGTERM or SIGHUP to `deliver`.

    A second SIGINT or SIGTERM ends the process at once. SIGHUP says that the terminal was closed;
    kernel and shell both say it, so another one changes nothing. Where it was to be ignored
    (``nohup``), it is.
    """
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    is_asked = False

    def handle(number: signal.Signals) -> None:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            deliver(number)
        elif number is not signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    with deliver_signals((*STOP_SIGNALS, *hang_up), without_echoes(handle)):
        yield
