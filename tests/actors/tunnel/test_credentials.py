"""The tokens of a tunnel: the same on every retry, new after a replacement, never shown."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.tunnel.context import Credentials
from tunnelfleet.proto import ConfigError, validate_client_token

CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"


def test_every_retry_sends_the_same_pair() -> None:
    credentials = Credentials("access")
    assert credentials.current() == credentials.current()


def test_a_client_token_is_generated_when_none_is_given() -> None:
    first, second = Credentials("access").current()[1], Credentials("access").current()[1]
    assert validate_client_token(first) == first
    assert first != second


def test_a_given_client_token_is_kept() -> None:
    assert Credentials("access", CLIENT_TOKEN).current() == ("access", CLIENT_TOKEN)


def test_a_new_access_token_gets_a_new_client_token() -> None:
    credentials = Credentials("access", CLIENT_TOKEN)
    credentials.replace("other")
    access_token, client_token = credentials.current()
    assert access_token == "other"
    assert client_token != CLIENT_TOKEN


@pytest.mark.parametrize(
    ("access_token", "client_token"),
    [("", None), ("with space", None), ("line\nbreak", None), ("access", "short"), ("", "short")],
)
def test_a_malformed_token_changes_nothing(access_token: str, client_token: str | None) -> None:
    credentials = Credentials("access", CLIENT_TOKEN)
    with pytest.raises(ConfigError):
        credentials.replace(access_token, client_token)
    assert credentials.current() == ("access", CLIENT_TOKEN)


def test_a_malformed_token_is_refused_at_once_and_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        Credentials("secret with spaces")
    assert "secret" not in str(caught.value)


def test_its_repr_shows_no_token() -> None:
    text = f"{Credentials('visible', CLIENT_TOKEN)!r} {Credentials('visible', CLIENT_TOKEN)}"
    assert "visible" not in text
    assert CLIENT_TOKEN not in text
