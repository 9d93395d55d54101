"""`tunnelfleet top`: the tunnels of a running gateway, live.

Owns the picture (`picture`, pure), what keys mean (`Wish.pressed`, pure), and the loop that asks,
draws and waits. Without a terminal it prints a table now and then.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tunnelfleet.runtime.cli.errors import EXIT_OK, one_line
from tunnelfleet.runtime.figures import human_rate
from tunnelfleet.runtime.gateway.api.address import GatewayNotReached
from tunnelfleet.runtime.gateway.api.client import GatewayClient

from .look import LabelOption, StateOption, check_labels, check_sort, ordered
from .reach import GatewayOption, JsonOption, TokenFileOption, gateway_at
from .rows import SORTS, number, sorted_rows, summary, text, tunnel_table
from .screen import Line, Styled, Waiting, cut_line, plain, say, terminal_size, write_json

if TYPE_CHECKING:
    from rich.live import Live


FIRST_SECONDS: Final = 1.0
"""The time between the two looks that a rate needs, when only one table is printed."""

Row = dict[str, Any]


class Rates:
    """Bytes a second of each tunnel, between two looks at the fleet."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}
        self._before_at: float | None = None
        self.by_name: dict[str, tuple[float, float]] = {}
        """Sent and received."""

    def look(self, rows: Sequence[Row], now: float) -> None:
        """Compare with the look before.

        Args:
            rows: as the gateway sends them.
            now: seconds, monotonic.
        """
        found = {
            text(row, "name"): (number(row, "sent_bytes"), number(row, "received_bytes"))
            for row in rows
        }
        self.by_name = {}
        if self._before_at is not None and now > self._before_at:
            passed = now - self._before_at
            for name, (sent, received) in found.items():
                old_sent, old_received = self._before.get(name, (sent, received))
                # A tunnel that was started anew counts from zero.
                moved = max(0.0, sent - old_sent), max(0.0, received - old_received)
                self.by_name[name] = moved[0] / passed, moved[1] / passed
        self._before, self._before_at = found, now

    @property
    def total(self) -> tuple[float, float]:
        """Return the rates of all tunnels together: sent, received."""
        rates = self.by_name.values()
        return sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants to see.

    Attributes:
        sort: one of `SORTS`.
        is_reversed: the last first.
        first: how many rows are scrolled past.
        is_over: the user wants to leave.
    """

    sort: str = SORTS[0]
    is_reversed: bool = False
    first: int = 0
    is_over: bool = False

    def pressed(self, key: str, page_rows: int, rows: int) -> Wish:
        """Return what the user wants after a key.

        Args:
            key: a character, or a name: `up`, `down`, `pageup`, `pagedown`, `home`, `end`.
            page_rows: that are shown at once.
            rows: that there are.
        """
        if key in ("q", "Q", "\x03", "\x04"):
            return replace(self, is_over=True)
        if key in ("s", "S", "<", ">"):
            step = 1 if key in ("s", ">") else -1
            at = (SORTS.index(self.sort) + step) % len(SORTS)
            return replace(self, sort=SORTS[at], first=0)
        if key == "r":
            return replace(self, is_reversed=not self.is_reversed, first=0)
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -page_rows,
            "pagedown": page_rows,
            " ": page_rows,
            "home": -rows,
            "g": -rows,
            "end": rows,
            "G": rows,
        }
        if key in steps:
            last = max(0, rows - page_rows)
            return replace(self, first=min(max(0, self.first + steps[key]), last))
        return self


FRAME_LINES: Final = 5
"""Title, summary, an empty line, head, keys."""
MIN_ROWS: Final = 1


def page_size(height: int) -> int:
    """Return how many rows a terminal of this height shows."""
    return max(MIN_ROWS, height - FRAME_LINES)


def picture(
    about: str,
    rows: Sequence[Row],
    rates: Mapping[str, tuple[float, float]],
    wish: Wish,
    *,
    width: int,
    height: int,
    now: float,
    trouble: str = "",
) -> list[Line]:
    """Return the screen, line by line.

    Args:
        about: the gateway, in words.
        rows: of the fleet, as the gateway sends them.
        rates: by name.
        wish: what to show of it.
        width: of the terminal.
        height: of the terminal; there are never more lines.
        now: seconds of the Unix epoch.
        trouble: why what is shown is old; may be empty.
    """
    shown = sorted_rows(rows, wish.sort, rates, is_reversed=wish.is_reversed)
    size = page_size(height)
    first = min(wish.first, max(0, len(shown) - size))
    part = shown[first : first + size]
    sent = sum(rate[0] for rate in rates.values())
    received = sum(rate[1] for rate in rates.values())
    title: Line = (
        Styled(about, "bold"),
        Styled(f"  {time.strftime('%H:%M:%S', time.localtime(now))}"),
        Styled(f"  sent {human_rate(sent)}, received {human_rate(received)}", "cyan"),
    )
    lines: list[Line] = [title, (Styled(trouble, "bold red"),) if trouble else summary(rows), ()]
    lines += tunnel_table(part, width, now, rates)
    lines += [()] * (height - 1 - len(lines))
    order = f"{wish.sort}{', reversed' if wish.is_reversed else ''}"
    where = ""
    if len(part) < len(shown):
        where = f"{first + 1}-{first + len(part)} of {len(shown)}  "
    keys = f"{where}q quit  s sort ({order})  r reverse  ↑↓ scroll"
    lines.append((Styled(keys, "bright_black"),))
    return [cut_line(line, width) for line in lines][:height]


DEFAULT_INTERVAL_SECONDS: Final = 2.0
MIN_INTERVAL_SECONDS: Final = 0.2
ANSWER_SECONDS: Final = 5.0


def top_command(
    label: LabelOption = None,
    state: StateOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Only these; * stands for anything."),
    ] = None,
    sort: Annotated[str, typer.Option("--sort", metavar="BY", help=f"{', '.join(SORTS)}.")] = SORTS[
        0
    ],
    interval: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", min=MIN_INTERVAL_SECONDS, help="Between two looks."
        ),
    ] = DEFAULT_INTERVAL_SECONDS,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Watch the tunnels of a running gateway: q or Ctrl-C ends it, s sorts, r reverses.

    Without a terminal, or with --json, it prints a table or an array each time.
    """
    check_sort(sort, SORTS)
    check_labels(label)
    filters: dict[str, Any] = {"label": label, "state": state, "name": name}
    width, _height = terminal_size()
    is_live = width is not None and not once and not as_json and _can_draw()
    with (
        gateway_at(gateway, gateway_token_file, answer_seconds=ANSWER_SECONDS) as client,
        Waiting(reads_keys=is_live) as waiting,
    ):
        fleet = _TopView(client, filters)
        # Whatever is wrong now is told in full, and not in a picture.
        fleet.look()
        if is_live:
            _watch(fleet, waiting, Wish(sort), interval)
        else:
            _print(fleet, waiting, sort, interval, is_once=once, as_json=as_json)
    return EXIT_OK


def _can_draw() -> bool:
    return os.environ.get("TERM", "") not in ("", "dumb")


class _TopView:
    """What was seen when the gateway was last asked."""

    def __init__(self, client: GatewayClient, filters: dict[str, Any]) -> None:
        self._client = client
        self._filters = filters
        self.rates = Rates()
        self.rows: list[Row] = []
        self.about = "gateway"
        self.trouble = ""

    def look(self) -> None:
        """Ask; raises what the client raises."""
        about = self._client.gateway()
        self.rows = self._client.tunnels(**self._filters)
        self.rates.look(self.rows, time.monotonic())
        self.about = f"gateway {text(about, 'name')}"
        self.trouble = ""

    def look_again(self) -> None:
        """Ask; what is wrong becomes `trouble`, and what was seen stays."""
        try:
            self.look()
        except GatewayNotReached as error:
            self.trouble = one_line(f"{error}; trying again")


def _watch(fleet: _TopView, waiting: Waiting, wish: Wish, interval: float) -> None:
    with _live() as draw:
        look_at = time.monotonic() + min(interval, FIRST_SECONDS)
        while not wish.is_over:
            width, height = terminal_size()
            if width is None or height is None:
                return
            draw(
                picture(
                    fleet.about,
                    fleet.rows,
                    fleet.rates.by_name,
                    wish,
                    width=width,
                    height=height,
                    now=time.time(),
                    trouble=fleet.trouble,
                )
            )
            keys = waiting.keys(max(0.0, look_at - time.monotonic()))
            if waiting.is_over:
                return
            for key in keys:
                wish = wish.pressed(key, page_size(height), len(fleet.rows))
            if time.monotonic() >= look_at and not wish.is_over:
                fleet.look_again()
                look_at = time.monotonic() + interval


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Sequence[Line]], None]]:
    # Only who looks at a terminal pays for these.
    from rich.console import Console, Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def draw(lines: Sequence[Line]) -> None:
        texts = []
        for line in lines:
            drawn = Text(no_wrap=True, overflow="crop")
            for piece in line:
                drawn.append(piece.text, piece.style or None)
            texts.append(drawn)
        live.update(Group(*texts), refresh=True)

    live: Live = Live(
        console=Console(highlight=False), screen=True, auto_refresh=False, vertical_overflow="crop"
    )
    with live:
        yield draw


def _print(
    fleet: _TopView,
    waiting: Waiting,
    sort: str,
    interval: float,
    *,
    is_once: bool,
    as_json: bool,
) -> None:
    pause = min(interval, FIRST_SECONDS)
    is_first = True
    while True:
        waiting.keys(pause)
        if waiting.is_over:
            return
        fleet.look()
        rows = sorted_rows(fleet.rows, sort, fleet.rates.by_name)
        if as_json:
            write_json([_with_rates(row, fleet.rates) for row in rows])
        else:
            _say_table(fleet, rows, is_first=is_first)
        if is_once:
            return
        is_first, pause = False, interval


def _say_table(fleet: _TopView, rows: Sequence[Row], *, is_first: bool) -> None:
    width, _height = terminal_size()
    lines: list[Line] = [] if is_first else [()]
    lines.append(summary(fleet.rows))
    lines += tunnel_table(rows, width, time.time(), fleet.rates.by_name)
    say("\n".join(plain(line) for line in lines))


def _with_rates(row: Row, rates: Rates) -> Row:
    sent, received = rates.by_name.get(text(row, "name"), (0.0, 0.0))
    found = {
        "sent_bytes_per_second": round(sent, 1),
        "received_bytes_per_second": round(received, 1),
    }
    return {**ordered(row), **found}
