"""Who may call: requests that botocore signed, and what is wrong with others."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Signing
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.aws_service import KEY, REGION, SECRET, aws_client
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service.management import (
    AccessKey,
    ManagementServer,
    load_credentials,
)
from tunnelfleet.runtime.service.management.model import (
    ApiError,
    KeyUnknown,
    SignatureIncomplete,
    SignatureInvalid,
    SignatureMissing,
)
from tunnelfleet.runtime.service.management.signature import (
    MAX_SKEW_SECONDS,
    SIGNING_NAME,
    SignatureVerifier,
    SignedRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnelfleet.runtime.service import TunnelService

KNOWN = {
    KEY: AccessKey(KEY, SECRET),
    "ASIATEMPORARY": AccessKey("ASIATEMPORARY", SECRET, "session-token"),
}
TARGET = "IoTSecuredTunneling.OpenTunnel"


def signed(
    body: bytes = b"{}",
    *,
    key: str = KEY,
    secret: str = SECRET,
    token: str | None = None,
    region: str = REGION,
    service: str = SIGNING_NAME,
    **headers: str,
) -> SignedRequest:
    request = AWSRequest("POST", "http://127.0.0.1:8444/", data=body, headers=headers)
    request.headers["X-Amz-Target"] = TARGET
    request.headers["Host"] = "127.0.0.1:8444"
    SigV4Auth(Signing(key, secret, token), service, region).add_auth(request)
    return SignedRequest("POST", "127.0.0.1:8444", "/", list(request.headers.items()), body)


def changed(request: SignedRequest, **headers: str | None) -> SignedRequest:
    """The request with other headers, as somebody on the way would change it."""
    names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    kept = [(name, value) for name, value in request.headers if name.lower() not in names]
    more = [(name, value) for name, value in names.items() if value is not None]
    return SignedRequest(request.method, request.host, request.target, kept + more, request.body)


def verify(request: SignedRequest, *, skew_seconds: float = 0.0) -> str:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=skew_seconds)
    return SignatureVerifier(KNOWN, REGION).verify(request, now)


def test_what_botocore_signs_is_let_in() -> None:
    assert verify(signed()) == KEY
    assert verify(signed(key="ASIATEMPORARY", token="session-token")) == "ASIATEMPORARY"
    assert verify(signed(Accept="a,  b", Content_Type="x")) == KEY


@given(st.binary(max_size=200), st.text(st.characters(codec="ascii", categories=["L", "N"])))
def test_any_body_and_header_is_covered(body: bytes, text: str) -> None:
    request = signed(body, X_Other=text)
    assert verify(request) == KEY
    other = SignedRequest("POST", request.host, "/", request.headers, body + b"!")
    with pytest.raises(SignatureInvalid):
        verify(other)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: changed(signed(), authorization=None),
            SignatureMissing,
            "Missing Authentication Token",
        ),
        (lambda: changed(signed(), authorization="Bearer x"), SignatureIncomplete, "requires AWS4"),
        (
            lambda: changed(signed(), authorization="AWS4-HMAC-SHA256 x"),
            SignatureIncomplete,
            "requires",
        ),
        (
            lambda: changed(
                signed(),
                authorization="AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=0",
            ),
            SignatureIncomplete,
            "requires",
        ),
        (lambda: signed(secret="another"), SignatureInvalid, "does not match"),
        (lambda: signed(key="AKNOBODY"), KeyUnknown, "is invalid"),
        (lambda: signed(token="session-token"), KeyUnknown, "is invalid"),
        (lambda: signed(key="ASIATEMPORARY"), KeyUnknown, "is invalid"),
        (lambda: signed(key="ASIATEMPORARY", token="other"), KeyUnknown, "is invalid"),
        (lambda: signed(region="eu-west-1"), SignatureInvalid, "valid region, 'us-east-1'"),
        (lambda: signed(service="iot"), SignatureInvalid, "correct service: 'IoTSecuredTunneling'"),
        (
            lambda: changed(signed(), x_amz_target="IoTSecuredTunneling.CloseTunnel"),
            SignatureInvalid,
            "not match",
        ),
        (lambda: changed(signed(), x_amz_date=None), SignatureInvalid, "Date in Credential scope"),
        (
            lambda: changed(signed(), x_amz_date="20200101T000000Z"),
            SignatureInvalid,
            "Credential scope",
        ),
        (
            lambda: changed(signed(), x_amz_content_sha256="UNSIGNED-PAYLOAD"),
            SignatureInvalid,
            "hash",
        ),
    ],
)
def test_what_is_not_signed_so_is_not_let_in(
    make: Callable[[], SignedRequest], kind: type[ApiError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        verify(make())


def test_the_target_has_to_be_signed() -> None:
    request = AWSRequest("POST", "http://h/", data=b"{}")
    SigV4Auth(Signing(KEY, SECRET), SIGNING_NAME, REGION).add_auth(request)
    found = SignedRequest(
        "POST", "h", "/", [*request.headers.items(), ("host", "h"), ("X-Amz-Target", TARGET)], b"{}"
    )
    with pytest.raises(SignatureInvalid, match="must be signed: x-amz-target"):
        verify(found)


@pytest.mark.parametrize(
    ("skew", "says"),
    [(MAX_SKEW_SECONDS + 5, "Signature expired"), (-MAX_SKEW_SECONDS - 5, "not yet current")],
)
def test_a_clock_may_differ_by_so_much(skew: float, says: str) -> None:
    request = signed()
    with pytest.raises(SignatureInvalid, match=f"{says}: .* 5 min"):
        verify(request, skew_seconds=skew)
    assert verify(request, skew_seconds=skew * 0.9) == KEY


def test_nothing_of_a_secret_is_shown() -> None:
    shown = repr(KNOWN) + repr(signed(token="session-token"))
    assert SECRET not in shown
    assert "session-token" not in shown


class TestThroughTheApi:
    @pytest.fixture
    def server(self, service: TunnelService) -> Iterator[ManagementServer]:
        with ManagementServer(service, credentials=KNOWN) as server:
            yield server

    def test_the_real_client(self, server: ManagementServer) -> None:
        aws = aws_client(server.url)
        assert aws.open_tunnel(description="größer")["tunnelId"]
        aws.close()
        temporary = aws_client(server.url, key="ASIATEMPORARY", aws_session_token="session-token")
        assert len(temporary.list_tunnels()["tunnelSummaries"]) == 1
        temporary.close()

    @pytest.mark.parametrize(
        ("given", "code"),
        [
            ({"secret": "wrong"}, "InvalidSignatureException"),
            ({"key": "AKNOBODY"}, "UnrecognizedClientException"),
            ({"region_name": "eu-west-1"}, "InvalidSignatureException"),
        ],
    )
    def test_others_are_told_why(
        self, server: ManagementServer, given: dict[str, str], code: str
    ) -> None:
        aws = aws_client(server.url, **given)
        with pytest.raises(ClientError) as caught:
            aws.open_tunnel()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert server._records.open_count == 0
        aws.close()


class TestFile:
    def test_every_profile_may_call(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials"
        path.write_text(
            "[default]\naws_access_key_id = A\naws_secret_access_key = s%cret\n"
            "[half]\naws_access_key_id = B\n"
            "[temporary]\naws_access_key_id=C\naws_secret_access_key=d\naws_session_token=e\n"
        )
        path.chmod(0o600)
        assert load_credentials(path) == {
            "A": AccessKey("A", "s%cret"),
            "C": AccessKey("C", "d", "e"),
        }

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "has 0 keys"),
            (b"[a]\naws_access_key_id=A\n", "has 0 keys"),
            (b"aws_secret_access_key=hidden", "are not written as"),
            (b"\xff\xfe", "are not written as"),
        ],
    )
    def test_others_are_told_without_what_is_in_them(
        self, tmp_path: Path, content: bytes, says: str
    ) -> None:
        path = tmp_path / "credentials"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=says) as caught:
            load_credentials(path)
        assert "hidden" not in str(caught.value)
        assert str(path) in str(caught.value)

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read the credentials .*: No such file"):
            load_credentials(tmp_path / "none")

    def test_one_that_others_can_read_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "credentials"
        path.write_text("[a]\naws_access_key_id=A\naws_secret_access_key=b\n")
        path.chmod(0o644)
        load_credentials(path)
        assert "others can read or change the credentials" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-Amz-Date",
        "X-Amz-Target",
        "X-Amz-Content-SHA256",
        "X-Amz-Security-Token",
        "Host",
    ],
)
def test_bytes_that_are_no_text_are_a_wrong_signature(name: str) -> None:
    """aiohttp makes surrogates of them, which nothing here can encode."""
    verifier = SignatureVerifier(KNOWN, REGION)
    request = signed()
    present = dict(request.headers).get(name, "")
    odd = changed(request, **{name.replace("-", "_"): f"{present}\udcff"})
    with pytest.raises(ApiError) as caught:
        verifier.verify(odd, datetime.datetime.now(datetime.UTC))
    assert caught.value.status in (400, 403)


def test_a_request_without_a_header_that_must_be_signed_is_a_wrong_signature() -> None:
    """botocore has always made that header itself, and fails when there is none."""
    verifier = SignatureVerifier(KNOWN, REGION)
    request = changed(signed(), Host=None)
    with pytest.raises(SignatureInvalid, match="does not match"):
        verifier.verify(
            SignedRequest("POST", "", "", request.headers, b"{}"),
            datetime.datetime.now(datetime.UTC),
        )
