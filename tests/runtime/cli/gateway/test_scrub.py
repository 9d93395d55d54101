from __future__ import annotations

import base64
from typing import Any

import pytest

from tunnelfleet.proto.text import HIDDEN
from tunnelfleet.runtime.cli.gateway.diag import Scrubber

TOKEN = base64.b64encode(b"0123456789" * 6).decode()
CLIENT = bytes(range(100, 132)).hex()
SHORT = "sesame-4711"
SCRUBBER = Scrubber([SHORT])


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"press-1: refused: {TOKEN} is spent",
        f'access_token = "{TOKEN}"',
        f"Authorization: Bearer {TOKEN}",
        "Authorization: Bearer short-one1",
        f"https://me:{TOKEN}@proxy:8080",
        f"http://user:pass-of-mine@proxy/ {CLIENT}",
        f"client_token={CLIENT}, and more",
        f"a line\nwith {SHORT} in it",
        'password: "hunter2-short"',
        f"?access_token={TOKEN}&x=1",
    ],
)
def test_tokens_are_hidden(text: str) -> None:
    found = SCRUBBER.text(text)
    assert HIDDEN in found
    for secret in (TOKEN, CLIENT, SHORT, "short-one1", "pass-of-mine", "hunter2-short"):
        assert secret not in found


@pytest.mark.parametrize(
    "text",
    [
        "press-1: connected",
        "tunnelfleet_config_last_reload_success_timestamp_seconds 1.7e9",
        "/var/lib/fleet/2026/tokens/press-4711.token",
        "channel-id 123e4567-e89b-12d3-a456-426614174000",
        'HTTP 403: "Invalid access token": check it (channel-id 0c044957903ed7454d92c5aa2be9dffe)',
        'access_token_file = "tokens/press-4"',
        'tunnelfleet_tunnels{state="connected"} 3',
        "the service answered HTTP 403 Forbidden",
        "Python 3.11.7 (main, Jan 1 2026) [GCC 12.2.0]",
    ],
)
def test_what_is_no_token_stays(text: str) -> None:
    assert SCRUBBER.text(text) == text


def test_values_are_hidden_by_the_name_of_their_field() -> None:
    value: dict[str, Any] = {
        "name": "a",
        "access_token": "short",
        "deep": [{"client_token": {"anything": "x"}, "count": 3, "none": None}],
        "token_file": "tokens/a",
        "channel_id": "0c044957903ed7454d92c5aa2be9dffe",
        "reason": f"echo {TOKEN}",
        TOKEN: 1,
    }
    found = SCRUBBER.value(value)
    assert found["access_token"] == HIDDEN
    assert found["deep"][0]["client_token"] == {"anything": "x"}
    assert found["deep"][0]["count"] == 3
    assert found["token_file"] == "tokens/a"
    assert found["channel_id"] == value["channel_id"]
    assert found["reason"] == f"echo {HIDDEN}"
    assert TOKEN not in found


def test_a_repr_shows_no_secret() -> None:
    assert SHORT not in repr(SCRUBBER)
