"""Text from outside: what becomes of control characters, of length, and of tokens in it."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import (
    MAX_ID_CHARACTERS,
    HandshakeError,
    Redactor,
    ServiceIdUnknown,
    ServiceWithoutStream,
    counted,
    printable,
)
from tunnelfleet.proto.text import MANY_PARTS, MAX_SCANNED_CHARACTERS, PART_CHARACTERS

TOKEN = "AQGAAXj4Zx+Q/9bT=cE7kP2wLrY0vN8mUoHsJdGf1iRa5eBt6qCxWzKl3nVpM4S-_h"
CLIENT_TOKEN = "5e6f0c1d-9a8b-4c7d-b6e5-f4a3b2c1d0e9"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("SSH", "SSH"),
        ("a\nb\r\n\tc", "a b c"),
        ("\x1b[2J\x1b[31mred\x07", "[2J [31mred"),
        ("left\u202eright\u200b", "left right"),
        ("\ud800é\x9b1m", "é 1m"),
    ],
)
def test_a_text_becomes_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_mark_can_show_where_something_stood() -> None:
    assert printable("a\nb\x00", mark="?") == "a?b?"


@pytest.mark.parametrize("text", ["x" * 60_000, "\n" * 60_000 + "x", "x" * 21])
def test_a_long_text_is_cut_and_says_so(text: str) -> None:
    shown = printable(text, 20)
    assert len(shown) <= 20
    assert shown.endswith("...")


@given(st.text(max_size=300), st.integers(min_value=3, max_value=100))
def test_whatever_the_text_the_line_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN,
        TOKEN.upper(),
        quote(TOKEN, safe=""),
        quote(quote(TOKEN, safe=""), safe="").lower(),
        html.escape(TOKEN),
        json.dumps(f"access-token: {TOKEN}"),
        TOKEN.encode().hex(),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.b64encode(b"GET / access-token: " + TOKEN.encode() + b"\r\n").decode(),
        base64.urlsafe_b64encode(b"1" + TOKEN.encode()).decode(),
        base64.b64encode(b"22" + TOKEN.encode()).decode(),
        TOKEN[:20],
        TOKEN[30:45],
        "\r\n ".join(TOKEN[n : n + 16] for n in range(0, len(TOKEN), 16)),
        f"{CLIENT_TOKEN}/{TOKEN}",
    ],
)
def test_a_token_is_hidden_however_it_is_written_back(echo: str) -> None:
    shown = Redactor([TOKEN, CLIENT_TOKEN])(f"before {echo} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "[hidden]" in shown
    for form in (TOKEN, CLIENT_TOKEN, TOKEN.encode().hex(), quote(TOKEN, safe="")):
        for start in range(len(form) - PART_CHARACTERS + 1):
            assert form[start : start + PART_CHARACTERS].lower() not in shown.lower()


def test_no_base64_of_a_token_can_be_decoded_from_what_is_shown() -> None:
    for before in range(6):
        echo = base64.b64encode(b"x" * before + TOKEN.encode() + b"y" * before).decode()
        left = Redactor([TOKEN]).hide(echo).replace("[hidden]", "").rstrip("=")
        assert len(left) <= 4 * before + 4


def test_what_is_no_part_of_a_token_stays() -> None:
    text = "Invalid access token: The access token was previously used (channel-id 1f9c77aa)"
    assert Redactor([TOKEN, CLIENT_TOKEN])(text) == text


def test_a_short_token_is_hidden_as_a_whole_and_tiny_ones_are_no_tokens() -> None:
    assert Redactor(["s3cret", "", "a"])("a word: s3cret") == "a word: [hidden]"


def test_behind_a_cut_nothing_is_shown() -> None:
    assert TOKEN not in Redactor([])("x" * MAX_SCANNED_CHARACTERS + TOKEN, 1_000_000)


def test_a_redactor_does_not_show_what_it_hides() -> None:
    assert TOKEN not in repr(Redactor([TOKEN]))


def test_errors_show_ids_of_peers_printable_and_bounded() -> None:
    forged = "SSH\x1b[2J\n2026 INFO all is well" + "y" * 60_000
    for error in (
        ServiceIdUnknown(forged, (forged, forged)),
        ServiceWithoutStream(forged),
        HandshakeError(forged, status=403, channel_id=forged, retryable=False),
    ):
        assert str(error).isprintable()
        assert len(str(error)) < 1_500
    error = HandshakeError("no", status=403, channel_id=forged, retryable=False)
    assert len(error.channel_id or "") <= MAX_ID_CHARACTERS


def test_a_text_too_short_for_a_part_of_a_token_stays() -> None:
    token = "abcdefghijklmnop"
    assert Redactor([token])("abcdefg") == "abcdefg"
    assert Redactor([token])("abcdefgh") == "[hidden]"


def test_a_token_is_found_in_a_long_text_as_in_a_short_one() -> None:
    """Of many parts another way is taken, which has to find the same."""
    before = "".join(f"{number:04x}" for number in range(MANY_PARTS))
    shown = Redactor([TOKEN]).hide(f"{before} {base64.b64encode(TOKEN.encode()).decode()} behind")
    assert shown.startswith(f"{before} [hidden]")
    assert shown.endswith("behind")
    assert base64.b64encode(TOKEN.encode()).decode()[8:16] not in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 tunnels are up"), (1, "1 tunnel is up"), (2_000, "2,000 tunnels are up")],
)
def test_a_count_agrees_with_its_noun_and_with_what_follows(count: int, text: str) -> None:
    assert counted(count, "tunnel", "is", "are") + " up" == text
    assert counted(count, "tunnel") == text.removesuffix(" is up").removesuffix(" are up")
