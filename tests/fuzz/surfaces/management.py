"""Calls of the service's management API by botocore's shapes, their signatures, and faults."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source
from tests.support.aws_service import KEY, REGION, SECRET
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.controls import FAULTS, run_fault
from tunnelfleet.runtime.service.management import AccessKey, ManagementLimits, ManagementServer
from tunnelfleet.runtime.service.management.model import ApiError, ServiceModel, check_output
from tunnelfleet.runtime.service.management.signature import (
    SIGNING_NAME,
    SignatureVerifier,
    SignedRequest,
)

MODEL = ServiceModel()
OPERATIONS = sorted(MODEL.operations)
VERIFIER = SignatureVerifier({KEY: AccessKey(KEY, SECRET)}, REGION)
MAX_SHOWN = 20_000
MAX_TUNNELS = 20


@cache
def server() -> ManagementServer:
    """An API over a service; nobody listens for it."""
    service = TunnelService(tls=False).start()
    made = ManagementServer(service, limits=ManagementLimits(open_tunnels=MAX_TUNNELS))
    ENDS.extend((service.stop, made._worker.shutdown))
    return made


ENDS: list[Callable[[], None]] = []


def stop() -> None:
    """End the service."""
    while ENDS:
        ENDS.pop()()
    server.cache_clear()


def run(data: bytes) -> None:
    source = Source(data)
    how = source.byte() % 4
    if how == 0:
        call(source.choose(OPERATIONS), source.rest())
    elif how == 1:
        verify(unsigned(source))
    elif how == 2:
        changed(source)
    else:
        fault(source.choose(sorted(FAULTS)), source.rest())


def call(name: str, body: bytes) -> None:
    operations = server()._operations
    records = server()._records
    known = next((each.tunnel_id for each in records), "none")
    arn = f"arn:aws:iot:{REGION}:000000000000:tunnel/{known}"
    body = body.replace(b"%ID%", known.encode()).replace(b"%ARN%", arn.encode())
    operation = MODEL.operation(f"IoTSecuredTunneling.{name}")
    try:
        with TURNS:
            given = MODEL.read_input(operation, body)
            answer = MODEL.write_output(operation, operations.call(name, given))
    except ApiError as error:
        assert error.message.isprintable()
        assert len(error.message) <= MAX_SHOWN
        assert 400 <= error.status < 500
    else:
        check_output(operation, answer)
    assert records.open_count <= MAX_TUNNELS
    if len(records) > 2 * MAX_TUNNELS:
        for record in [*records]:
            operations.call("CloseTunnel", {"tunnelId": record.tunnel_id, "delete": True})


NOW = datetime.datetime(2026, 1, 31, 8, 0, tzinfo=datetime.UTC)
STAMP = NOW.strftime("%Y%m%dT%H%M%SZ")


def unsigned(source: Source) -> SignedRequest:
    """A request of somebody who does not know the secret."""
    lines = source.rest().decode("latin-1").split("\n")
    pairs = [line.partition(": ")[::2] for line in lines[3:]]
    head = [*lines, "", "", ""]
    return SignedRequest(head[0], head[1], head[2], pairs, b"{}")


def verify(request: SignedRequest) -> None:
    try:
        with TURNS:
            VERIFIER.verify(request, NOW)
    except ApiError as error:
        assert SECRET not in error.message
        assert error.status in (400, 403)
        assert len(error.message) <= MAX_SHOWN
        return
    raise AssertionError("it was let in without the secret")


def changed(source: Source) -> None:
    """A request that was signed, of which one part may have been changed since."""
    request = signed(source.take(source.byte()))
    part, text = source.byte() % 5, source.rest().decode("latin-1")
    headers = [*request.headers]
    if part == 1:
        headers = [(key, text if key == "host" else value) for key, value in headers]
        request = SignedRequest("POST", text, "/", headers, request.body)
    elif part == 2:
        request = SignedRequest("POST", request.host, "/", headers, request.body + text.encode())
    elif part == 3:
        headers = [(key, text if key == "x-amz-target" else value) for key, value in headers]
        request = SignedRequest("POST", request.host, "/", headers, request.body)
    elif part == 4:
        request = SignedRequest(text, request.host, "/", headers, request.body)
    if is_same(part, text):
        assert VERIFIER.verify(request, NOW) == KEY
    else:
        verify(request)


HOST, TARGET = "localhost:5800", "IoTSecuredTunneling.ListTunnels"


def is_same(part: int, text: str) -> bool:
    """Whether nothing of what was signed is another one."""
    value = " ".join(text.split())
    unchanged = (True, value == HOST, not text, value == TARGET, text.upper() == "POST")
    return unchanged[part]


def signed(body: bytes) -> SignedRequest:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("POST", f"http://{HOST}/", data=body)
    request.headers["host"] = HOST
    request.headers["x-amz-target"] = TARGET
    request.headers["x-amz-date"] = STAMP
    request.context["timestamp"] = STAMP
    signer = SigV4Auth(Credentials(KEY, SECRET), SIGNING_NAME, REGION)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signature = signer.signature(text, request)
    scope = f"{KEY}/{STAMP[:8]}/{REGION}/{SIGNING_NAME}/aws4_request"
    given = f"Credential={scope}, SignedHeaders=host;x-amz-date;x-amz-target, Signature={signature}"
    headers = [*request.headers.items(), ("Authorization", f"AWS4-HMAC-SHA256 {given}")]
    return SignedRequest("POST", HOST, "/", headers, body)


def fault(name: str, body: bytes) -> None:
    """A fault on command; there is no tunnel of that name, so nothing happens but answers."""
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(given, dict):
        return
    service = server()._operations._service
    try:
        with TURNS:
            run_fault(service, name, given)
    except ConfigError as error:
        assert len(str(error)) <= MAX_SHOWN
        assert str(error).isprintable()


def seed(name: str, **given: object) -> bytes:
    return bytes((0, OPERATIONS.index(name))) + json.dumps(given).encode()


OPENED = {
    "description": "d",
    "destinationConfig": {"thingName": "press-4", "services": ["SSH"]},
    "timeoutConfig": {"maxLifetimeTimeoutMinutes": 1},
    "tags": [{"key": "a", "value": "b"}],
}
CALLS = [
    seed("OpenTunnel", **OPENED),
    seed("OpenTunnel"),
    seed("DescribeTunnel", tunnelId="%ID%"),
    seed("ListTunnels", maxResults=1, thingName="press-4", nextToken="x"),
    seed("RotateTunnelAccessToken", tunnelId="%ID%", clientMode="ALL"),
    seed("TagResource", resourceArn="%ARN%", tags=[{"key": "c", "value": "d"}]),
    seed("UntagResource", resourceArn="%ARN%", tagKeys=["a"]),
    seed("ListTagsForResource", resourceArn="%ARN%"),
    seed("CloseTunnel", tunnelId="%ID%", delete=True),
]
CREDENTIAL = f"{KEY}/{STAMP[:8]}/{REGION}/{SIGNING_NAME}/aws4_request"
UNSIGNED = (
    f"POST\n{HOST}\n/\nx-amz-date: {STAMP}\nx-amz-target: {TARGET}\n"
    f"Authorization: AWS4-HMAC-SHA256 Credential={CREDENTIAL}, "
    f"SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}"
).encode()
NAMES = sorted(FAULTS)
HARNESS = Harness(
    run=run,
    covers=[
        "runtime/service/management/model.py",
        "runtime/service/management/operations.py",
        "runtime/service/management/signature.py",
        "runtime/service/management/records.py",
        "runtime/service/controls.py",
    ],
    seeds=[
        *CALLS,
        b"\0\0[",
        b"\1" + UNSIGNED,
        b"\1" + UNSIGNED.replace(b"host;", b""),
        b"\1POST\nh\n/\nAuthorization: Basic x",
        b"\2\2{}\0",
        b"\2\2{}\1localhost:5800",
        b"\2\2{}\1evil.example",
        b"\2\2{}\2x",
        b"\2\2{}\3IoTSecuredTunneling.OpenTunnel",
        b"\2\2{}\4GET",
        *(
            bytes((3, number))
            + b'{"tunnel":"a","mode":"source","count":1,"seconds":1,"rate":"1kB/s"}'
            for number in range(len(NAMES))
        ),
        bytes((3, NAMES.index("refuse"))) + b'{"tunnel":"any","status":503,"retry_after":1e308}',
        bytes((3, NAMES.index("delay"))) + b'{"tunnel":"a","seconds":1e999}',
        bytes((3, NAMES.index("throttle"))) + b'{"tunnel":"a","rate":NaN}',
    ],
    words=[b"%ID%", b"%ARN%", b'"tags":[', b'"tunnelId":', b"null", b"\\ud800", b"1e999", b"NaN"],
    max_bytes=1_024,
    stop=stop,
)
