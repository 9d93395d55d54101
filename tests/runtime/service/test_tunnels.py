"""The token rules of docs/protocol.md section 1."""

from __future__ import annotations

import pytest

from tunnelfleet.proto import (
    ACCESS_TOKEN_USED_TEXT,
    CLIENT_TOKEN_MISMATCH_TEXT,
    ConfigError,
    Mode,
    RequestAccepted,
    RequestRefused,
)
from tunnelfleet.runtime.service.tokens import IssuedTokens, TunnelTokens

A, B = "a" * 32, "b" * 32


@pytest.fixture
def issued() -> IssuedTokens:
    return IssuedTokens()


@pytest.fixture
def tokens(issued: IssuedTokens) -> TunnelTokens:
    return issued.open("press-4", ["SSH"])


def ask(
    issued: IssuedTokens, token: str, client_token: str | None = None, mode: Mode = Mode.SOURCE
) -> str:
    return issued.admit(RequestAccepted(mode, token, client_token, "aws.iot.securetunneling-3.0"))


def refusal(
    issued: IssuedTokens, token: str, client_token: str | None = None, mode: Mode = Mode.SOURCE
) -> tuple[int, str]:
    with pytest.raises(RequestRefused) as caught:
        ask(issued, token, client_token, mode)
    return int(caught.value.status), caught.value.body


def test_a_token_is_for_its_tunnel_and_mode(issued: IssuedTokens, tokens: TunnelTokens) -> None:
    assert ask(issued, tokens.source_token) == "press-4"
    assert ask(issued, tokens.destination_token, mode=Mode.DESTINATION) == "press-4"


def test_without_client_token_a_token_is_spent_by_its_first_use(
    issued: IssuedTokens, tokens: TunnelTokens
) -> None:
    ask(issued, tokens.source_token)
    assert refusal(issued, tokens.source_token) == (403, ACCESS_TOKEN_USED_TEXT)
    assert refusal(issued, tokens.source_token, A) == (403, ACCESS_TOKEN_USED_TEXT)


def test_the_same_pair_may_reconnect(issued: IssuedTokens, tokens: TunnelTokens) -> None:
    for _ in range(3):
        ask(issued, tokens.source_token, A)


def test_another_client_token_is_a_mismatch(issued: IssuedTokens, tokens: TunnelTokens) -> None:
    ask(issued, tokens.source_token, A)
    assert refusal(issued, tokens.source_token, B) == (403, CLIENT_TOKEN_MISMATCH_TEXT)
    assert refusal(issued, tokens.source_token) == (403, ACCESS_TOKEN_USED_TEXT)
    ask(issued, tokens.source_token, A)


def test_the_wrong_mode_is_a_bad_request_and_spends_nothing(
    issued: IssuedTokens, tokens: TunnelTokens
) -> None:
    assert refusal(issued, tokens.source_token, mode=Mode.DESTINATION)[0] == 400
    ask(issued, tokens.source_token)


def test_an_unknown_token_is_refused(issued: IssuedTokens) -> None:
    status, body = refusal(issued, "no such token")
    assert status == 403
    assert "no such token" not in body


def test_a_client_token_is_unique_over_open_tunnels(
    issued: IssuedTokens, tokens: TunnelTokens
) -> None:
    other = issued.open("other", [])
    ask(issued, tokens.source_token, A)
    ask(issued, tokens.destination_token, A, Mode.DESTINATION)
    status, body = refusal(issued, other.source_token, A)
    assert (status, "client token" in body) == (403, True)
    issued.close("press-4")
    ask(issued, other.source_token, A)


def test_rotation_revokes_the_token_of_its_mode(issued: IssuedTokens, tokens: TunnelTokens) -> None:
    ask(issued, tokens.source_token, A)
    new = issued.rotate("press-4", [Mode.SOURCE])
    assert new.source_token != tokens.source_token
    assert new.destination_token == tokens.destination_token
    assert refusal(issued, tokens.source_token, A)[0] == 403
    ask(issued, new.source_token, B)


def test_rotation_keeps_a_client_token_that_the_other_side_uses(
    issued: IssuedTokens, tokens: TunnelTokens
) -> None:
    ask(issued, tokens.source_token, A)
    ask(issued, tokens.destination_token, A, Mode.DESTINATION)
    issued.rotate("press-4", [Mode.SOURCE])
    assert refusal(issued, issued.open("other", []).source_token, A)[0] == 403


def test_a_closed_tunnels_tokens_are_void(issued: IssuedTokens, tokens: TunnelTokens) -> None:
    issued.close("press-4")
    assert refusal(issued, tokens.source_token)[0] == 403
    assert list(issued) == []
    assert issued.tunnel_of(tokens.source_token) is None


def test_tokens_are_not_shown(tokens: TunnelTokens) -> None:
    assert tokens.source_token not in repr(tokens)
    assert tokens.destination_token not in repr(tokens)


def test_tokens_are_hard_to_guess_and_safe_on_a_command_line(tokens: TunnelTokens) -> None:
    assert len(tokens.source_token) >= 64
    assert tokens.source_token.isalnum()


@pytest.mark.parametrize(
    ("name", "services"),
    [
        ("", []),
        ("a\nb", []),
        ("press-4", []),
        ("x", ["SSH", "SSH"]),
        ("x", [""]),
        ("x", ["a\tb"]),
        ("x", ["s" * 129]),
        ("x", [str(n) for n in range(257)]),
        ("x", "SSH"),
    ],
)
@pytest.mark.usefixtures("tokens")
def test_refuses_unusable_names(issued: IssuedTokens, name: str, services: list[str]) -> None:
    with pytest.raises(ConfigError):
        issued.open(name, services)
    assert list(issued) == ["press-4"]


def test_an_unknown_tunnel_is_an_error(issued: IssuedTokens) -> None:
    for command in (issued.close, issued.tokens):
        with pytest.raises(ConfigError, match="no tunnel"):
            command("nobody")
    with pytest.raises(ConfigError, match="no tunnel"):
        issued.rotate("nobody", list(Mode))
