"""Which upgrade requests a service accepts (docs/protocol.md section 1)."""

from __future__ import annotations

import pytest

from tunnelfleet.proto import (
    ACCEPTED_SUBPROTOCOLS,
    ACCESS_TOKEN_INVALID_TEXT,
    CLIENT_TOKEN_INVALID_TEXT,
    INVALID_REQUEST_TEXT,
    MAX_REQUEST_BYTES,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
    SUBPROTOCOLS,
    Mode,
    RequestAccepted,
    RequestRefused,
    check_request,
    request_headers,
)

TOKEN = "AQGAAXiVzSmRL1VaJ22G7eRb"
CLIENT_TOKEN = "c" * 32
MODE = [("local-proxy-mode", "source")]
OFFER = ("Sec-WebSocket-Protocol", SUBPROTOCOL_V3)
ACCESS = ("access-token", TOKEN)
COOKIE = ("Cookie", f"a=b; awsiot-tunnel-token={TOKEN}; c=d")

Pairs = list[tuple[str, str]]


def refused(path: str, query: Pairs, headers: Pairs) -> str:
    with pytest.raises(RequestRefused) as caught:
        check_request(path, query, headers)
    assert caught.value.status == 400
    assert TOKEN not in caught.value.body
    return caught.value.body


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("client_token", [None, CLIENT_TOKEN])
def test_what_our_client_sends_is_accepted(mode: Mode, client_token: str | None) -> None:
    headers = [*request_headers(TOKEN, client_token, "tunnelfleet"), (OFFER[0], SUBPROTOCOLS[0])]
    accepted = check_request("/tunnel", [("local-proxy-mode", mode.value)], headers)
    assert accepted == RequestAccepted(mode, TOKEN, client_token, SUBPROTOCOL_V3)


@pytest.mark.parametrize("headers", [[ACCESS], [COOKIE], [("ACCESS-Token", f" {TOKEN} ")]])
def test_the_token_is_a_header_or_a_cookie(headers: Pairs) -> None:
    assert check_request("/tunnel", MODE, [*headers, OFFER]).access_token == TOKEN


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("access-token", "")],
        [ACCESS, ACCESS],
        [ACCESS, COOKIE],
        [COOKIE, COOKIE],
        [("Cookie", f"awsiot-tunnel-token={TOKEN}; awsiot-tunnel-token={TOKEN}")],
        [("Cookie", f"other={TOKEN}")],
    ],
)
def test_exactly_one_token(headers: Pairs) -> None:
    assert refused("/tunnel", MODE, [*headers, OFFER]).startswith(ACCESS_TOKEN_INVALID_TEXT)


@pytest.mark.parametrize("path", ["/", "/tunnel/", "/Tunnel", ""])
def test_the_path(path: str) -> None:
    assert refused(path, MODE, [ACCESS, OFFER]).startswith(INVALID_REQUEST_TEXT)


@pytest.mark.parametrize(
    "query",
    [
        [],
        [("local-proxy-mode", "both")],
        [("local-proxy-mode", "")],
        [("local-proxy-mode", "Source")],
        [*MODE, *MODE],
        [("mode", "source")],
    ],
)
def test_the_mode(query: Pairs) -> None:
    assert "local-proxy-mode" in refused("/tunnel", query, [ACCESS, OFFER])


@pytest.mark.parametrize("tokens", [["short"], ["c" * 129], ["c" * 31 + "_"], [CLIENT_TOKEN] * 2])
def test_the_client_token(tokens: list[str]) -> None:
    headers = [ACCESS, OFFER, *[("client-token", token) for token in tokens]]
    assert refused("/tunnel", MODE, headers).startswith(CLIENT_TOKEN_INVALID_TEXT)


@pytest.mark.parametrize(
    ("offers", "chosen"),
    [
        ([SUBPROTOCOL_V3], SUBPROTOCOL_V3),
        ([SUBPROTOCOL_V2], SUBPROTOCOL_V2),
        ([SUBPROTOCOL_V1], SUBPROTOCOL_V1),
        ([f"{SUBPROTOCOL_V1}, {SUBPROTOCOL_V2}"], SUBPROTOCOL_V2),
        (["chat", f"{SUBPROTOCOL_V1},{SUBPROTOCOL_V3}"], SUBPROTOCOL_V3),
    ],
)
def test_the_best_subprotocol_is_chosen(offers: list[str], chosen: str) -> None:
    headers = [ACCESS, *[("sec-websocket-protocol", offer) for offer in offers]]
    assert check_request("/tunnel", MODE, headers).subprotocol == chosen


@pytest.mark.parametrize("offers", [[], [""], ["chat"], ["aws.iot.securetunneling-4.0"]])
def test_a_subprotocol_must_be_offered(offers: list[str]) -> None:
    headers = [ACCESS, *[("Sec-WebSocket-Protocol", offer) for offer in offers]]
    body = refused("/tunnel", MODE, headers)
    assert all(name in body for name in ACCEPTED_SUBPROTOCOLS)


def test_the_size_of_the_request() -> None:
    headers = [ACCESS, OFFER, ("User-Agent", "")]
    request = "GET /tunnel?local-proxy-mode=source HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in headers
    )
    room = MAX_REQUEST_BYTES - len(request + "\r\n")
    fits = [*headers[:2], ("User-Agent", "x" * room)]
    assert check_request("/tunnel", MODE, fits).mode is Mode.SOURCE
    above = [*headers[:2], ("User-Agent", "x" * (room + 1))]
    assert "above 4096 bytes" in refused("/tunnel", MODE, above)


def test_bytes_that_are_not_text_are_refused_like_any_other() -> None:
    headers = [ACCESS, OFFER, ("client-token", "\udcff" * 32), ("X", "\udcff" * 100)]
    assert refused("/tunnel", MODE, headers).startswith(CLIENT_TOKEN_INVALID_TEXT)
    assert "above" in refused("/tunnel", MODE, [*headers, ("X", "\udcff" * 4000)])


def test_tokens_are_not_shown() -> None:
    accepted = check_request("/tunnel", MODE, [ACCESS, OFFER, ("client-token", CLIENT_TOKEN)])
    assert TOKEN not in repr(accepted)
    assert CLIENT_TOKEN not in repr(accepted)
