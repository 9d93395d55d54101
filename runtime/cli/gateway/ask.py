"""`tunnelfleet reload` and `tunnelfleet ready`, and what a reload would change, for `check`.

Owns how a difference and the problems of files are written, and what the exit statuses mean.
"""

from __future__ import annotations

import http
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from tunnelfleet.runtime.cli import errors
from tunnelfleet.runtime.gateway.api.address import GatewayNotReached, GatewayRefused
from tunnelfleet.runtime.gateway.api.client import GatewayClient

from .reach import GatewayOption, JsonOption, TokenFileOption, gateway_at, refused
from .screen import note, say, terminal_size, wrap, write_json

CHECK_SECONDS: Final = 10.0
"""`check` waits no longer for a gateway, which it can do without."""


def reload_command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Have a running gateway read its files again, and say what has changed.

    What has not changed does not notice. A mistake in the files changes nothing; it is told as
    `check` does, with exit status 2.
    """
    with gateway_at(gateway, gateway_token_file) as client:
        try:
            answer = client.reload(dry_run=dry_run)
        except GatewayRefused as error:
            if error.status != http.HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
            problems = _objects(error.members.get("problems"))
            if as_json:
                write_json({"ok": False, "problems": problems})
            print_found(problems)
            if not problems:
                note(errors.one_line(refused(error)))
            return errors.EXIT_USAGE
    if as_json:
        write_json({"ok": True, **answer})
        return errors.EXIT_OK
    print_found(_objects(answer.get("problems")))
    if dry_run:
        say("a reload would change this:")
    width, _height = terminal_size()
    say("\n".join(difference_lines(answer, width)) + "")
    for key in _texts(answer.get("needs_restart")):
        note(errors.one_line(f"gateway.{key} has changed; it is taken over at the next start"))
    return errors.EXIT_OK


KINDS: Final = ("added", "changed", "removed")
SHOWN_NAMES: Final = 50


def difference_lines(answer: dict[str, Any], width: int | None) -> list[str]:
    """Return what a reload changes, a line a kind, and what happens to those that changed."""
    changes = answer.get("changes")
    lines: list[str] = []
    for kind in KINDS:
        names = _texts(answer.get(kind))
        if not names:
            continue
        shown = [_with_change(name, changes) if kind == "changed" else name for name in names]
        more = ["…"] if len(shown) > SHOWN_NAMES else []
        head = f"{kind:<10}{len(names):>5}  "
        lines += wrap(head + ", ".join([*shown[:SHOWN_NAMES], *more]), width, len(head))
    lines.append(f"{'unchanged':<10}{len(_texts(answer.get('unchanged'))):>5}")
    return lines


def _with_change(name: str, changes: object) -> str:
    found = changes.get(name) if isinstance(changes, dict) else None
    if isinstance(found, list) and len(found) == 2:
        keys, action = found
        return f"{name} ({', '.join(_texts(keys))}: {action})"
    if isinstance(found, dict):
        return f"{name} ({', '.join(_texts(found.get('keys')))}: {found.get('action')})"
    return name


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def print_found(problems: Sequence[dict[str, Any]]) -> None:
    """Print problems of files on stderr, as `check` does."""
    for each in problems:
        kind = "warning: " if each.get("severity") == "warning" else ""
        text = each.get("message") or each.get("text")
        note(
            errors.one_line(
                f"{each.get('file')}:{each.get('line')}: {each.get('key')}: {kind}{text}"
            )
        )


def would_change(client: GatewayClient) -> tuple[list[str], dict[str, Any] | None, str]:
    """Return what a reload of the gateway would change.

    Returns:
        The files that it reads, the answer, and why there is none.
    """
    about = client.gateway()
    config = about.get("config")
    files = _texts(config.get("files")) if isinstance(config, dict) else []
    try:
        return files, client.reload(dry_run=True), ""
    except GatewayRefused as error:
        return files, None, _why_nothing(error)


def _why_nothing(error: GatewayRefused) -> str:
    """What the gateway says: it knows what the files were before, and what is wrong now."""
    for each in _objects(error.members.get("problems")):
        if each.get("severity") == "error":
            text = each.get("message") or each.get("text")
            return f"it takes nothing over: {each.get('file')}: {text}"
    return refused(error)


SHOWN_REASONS: Final = 20
PAUSE_SECONDS: Final = 0.25


def ready_command(
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0.0, help="Wait so long until it is ready."),
    ] = 0.0,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Say whether a running gateway is ready: exit status 0, or 1 with the reasons."""
    deadline = time.monotonic() + wait
    with gateway_at(gateway, gateway_token_file) as client:
        about = _wait_until_ready(client, deadline)
    is_ready = bool(about.get("ready"))
    if as_json:
        write_json({"ready": is_ready, "reasons": about.get("reasons") or []})
    elif is_ready:
        say(f"ready: gateway {about.get('name')}")
    else:
        say("\n".join(map(errors.one_line, _not_ready(_reasons(about.get("reasons"))))))
    return errors.EXIT_OK if is_ready else errors.EXIT_FAILURE


def _wait_until_ready(client: GatewayClient, deadline: float) -> dict[str, Any]:
    """Ask until the gateway is ready or the time is over; return what it said last."""
    while True:
        try:
            about = client.gateway()
        except GatewayNotReached:
            # It may be starting.
            if time.monotonic() >= deadline:
                raise
            about = {}
        if about.get("ready") or time.monotonic() >= deadline:
            return about
        time.sleep(min(PAUSE_SECONDS, max(0.0, deadline - time.monotonic())))


def _not_ready(reasons: Sequence[str]) -> list[str]:
    shown = reasons[:SHOWN_REASONS]
    left = len(reasons) - len(shown)
    lines = ["not ready", *shown, *([f"and {left} more"] if left else [])]
    return [*lines, "tunnelfleet ls --sort trouble shows which and why"]


def _reasons(value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {each}" for key, each in value.items()]
    if isinstance(value, list):
        return [_reason(each) for each in value]
    return [str(value)] if value else []


def _reason(value: object) -> str:
    if isinstance(value, dict):
        words = [str(value[key]) for key in ("tunnel", "state", "reason") if value.get(key)]
        return ": ".join(words) or str(value)
    return str(value)
