"""Who may call: AWS's signature, version 4, verified with botocore's own signer.

Owns the file of credentials and the verdict on a request. Must not know HTTP servers.

The signature is made anew from what was signed, with the secret that the named key has here, and
compared. It covers the body: by its hash, which is compared too where a header gives it.
"""

from __future__ import annotations

import configparser
import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError, counted, printable

from .model import KeyUnknown, SignatureIncomplete, SignatureInvalid, SignatureMissing

SIGNING_NAME: Final = "IoTSecuredTunneling"
MAX_SKEW_SECONDS: Final = 300.0
MAX_KEYS: Final = 10_000
MAX_FILE_BYTES: Final = 10_485_760
MAX_SHOWN_CHARACTERS: Final = 64

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_TIME: Final = "%Y%m%dT%H%M%SZ"
_PART: Final = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
_SCOPE_PARTS: Final = 5
_OTHERS: Final = 0o077
_NEEDED_HEADERS: Final = frozenset({"host", "x-amz-date", "x-amz-target"})
"""Which the signature has to cover: whom it is for, when it was made, and what is to be done."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key that may call.

    Attributes:
        access_key: its public name.
        secret_key: what requests are signed with.
        session_token: what temporary credentials come with; None with lasting ones.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def load_credentials(path: Path) -> dict[str, AccessKey]:
    """Read a file as AWS's tools have it in `~/.aws/credentials`; every profile's key may call.

    Raises:
        ConfigError: it cannot be read, or there is no key in it.
    """
    parser = configparser.RawConfigParser(strict=False)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is above {MAX_FILE_BYTES} bytes; that is no such file")
        if path.stat().st_mode & _OTHERS:
            _log.warning("others can read or change the credentials in %s; chmod 600 it", path)
        parser.read_string(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the credentials {path}: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        # Not its text, which quotes the line.
        raise ConfigError(f"the credentials {path} are not written as {_EXAMPLE}") from error
    found: dict[str, AccessKey] = {}
    for profile in parser.sections():
        values = parser[profile]
        key, secret = values.get("aws_access_key_id"), values.get("aws_secret_access_key")
        if key and secret:
            found[key] = AccessKey(key, secret, values.get("aws_session_token") or None)
    if not found or len(found) > MAX_KEYS:
        raise ConfigError(
            f"{path} has {counted(len(found), 'key')}, and takes 1 to {MAX_KEYS}: "
            f"profiles written as {_EXAMPLE}"
        )
    return found


_EXAMPLE: Final = "[default], aws_access_key_id = ..., aws_secret_access_key = ..."


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What is verified of a request.

    Attributes:
        method: of HTTP.
        host: its `Host` header.
        target: path and query, as sent.
        headers: all headers, duplicates kept.
        body: its bytes.
    """

    method: str
    host: str
    target: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Return a header's value, or ""."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True, slots=True)
class _Authorization:
    access_key: str
    date: str
    region: str
    service: str
    signed_headers: frozenset[str]
    signature: str


class SignatureVerifier:
    """Verifies requests.

    Args:
        credentials: who may call, by access key.
        region: for which requests have to be signed.
    """

    def __init__(self, credentials: Mapping[str, AccessKey], region: str) -> None:
        self._credentials = credentials
        self._region = region

    def verify(self, request: SignedRequest, now: datetime.datetime) -> str:
        """Return the access key that signed a request.

        Args:
            request: what came.
            now: the time, with its zone.

        Raises:
            SignatureMissing: it is not signed.
            SignatureIncomplete: it is signed in another way.
            KeyUnknown: nobody here has that key.
            SignatureInvalid: another secret, region, service or time.
        """
        if not _is_unicode(request):
            # botocore signs no such thing, and cannot make a signature of it.
            raise SignatureInvalid("The request's head is no UTF-8.")
        authorization = _authorization(request)
        stamp = request.header("x-amz-date")
        self._check_scope(authorization, stamp)
        _check_time(stamp, now)
        credentials = self._credentials.get(authorization.access_key)
        if credentials is None or not _same(
            credentials.session_token or "", request.header("x-amz-security-token")
        ):
            raise KeyUnknown("The security token included in the request is invalid.")
        given_hash = request.header("x-amz-content-sha256")
        if given_hash and not _same(given_hash, hashlib.sha256(request.body).hexdigest()):
            raise SignatureInvalid("The body is not the one whose hash was signed.")
        try:
            expected = _sign(request, authorization, credentials, stamp)
        except Exception:  # noqa: BLE001 - botocore signs what it has made, and fails at the rest
            expected = ""
        if not expected or not _same(expected, authorization.signature):
            raise SignatureInvalid(
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key and signing method."
            )
        return credentials.access_key

    def _check_scope(self, authorization: _Authorization, stamp: str) -> None:
        if authorization.region != self._region:
            raise SignatureInvalid(
                f"Credential should be scoped to a valid region, '{self._region}'."
            )
        if authorization.service != SIGNING_NAME:
            raise SignatureInvalid(
                f"Credential should be scoped to correct service: '{SIGNING_NAME}'."
            )
        if not stamp.startswith(authorization.date):
            raise SignatureInvalid(
                "Date in Credential scope does not match YYYYMMDD of the request's date."
            )
        missing = _NEEDED_HEADERS - authorization.signed_headers
        if missing:
            raise SignatureInvalid(f"These headers must be signed: {', '.join(sorted(missing))}.")


def _is_unicode(request: SignedRequest) -> bool:
    """Whether a head has no bytes that aiohttp could not decode, which are surrogates then."""
    try:
        "".join([request.host, request.target, *map("".join, request.headers)]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _authorization(request: SignedRequest) -> _Authorization:
    text = request.header("authorization")
    if not text:
        raise SignatureMissing("Missing Authentication Token")
    algorithm, _, rest = text.partition(" ")
    parts = dict(_PART.findall(rest))
    scope = parts.get("Credential", "").split("/")
    is_whole = {"Credential", "SignedHeaders", "Signature"} <= parts.keys()
    if algorithm != _ALGORITHM or not is_whole or len(scope) != _SCOPE_PARTS:
        shown = printable(algorithm, MAX_SHOWN_CHARACTERS)
        raise SignatureIncomplete(
            f"Authorization header requires {_ALGORITHM} with 'Credential', 'SignedHeaders' and "
            f"'Signature'; Authorization={shown}"
        )
    names = frozenset(parts["SignedHeaders"].split(";"))
    return _Authorization(scope[0], scope[1], scope[2], scope[3], names, parts["Signature"])


def _check_time(stamp: str, now: datetime.datetime) -> None:
    try:
        signed_at = datetime.datetime.strptime(stamp, _TIME).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise SignatureIncomplete(
            "Authorization header requires existence of an 'X-Amz-Date' header."
        ) from None
    skew = (now - signed_at).total_seconds()
    shown, limit = now.strftime(_TIME), f"{MAX_SKEW_SECONDS / 60:g} min."
    if skew > MAX_SKEW_SECONDS:
        raise SignatureInvalid(
            f"Signature expired: {stamp} is now earlier than the service's {shown} - {limit}"
        )
    if skew < -MAX_SKEW_SECONDS:
        raise SignatureInvalid(
            f"Signature not yet current: {stamp} is still later than the service's {shown} + "
            f"{limit}"
        )


def _sign(
    request: SignedRequest, authorization: _Authorization, credentials: AccessKey, stamp: str
) -> str:
    """Return the signature that the request would have if this secret had signed it."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415 (an extra)
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials as Signing  # noqa: PLC0415

    signed = AWSRequest(
        method=request.method, url=f"http://{request.host}{request.target}", data=request.body
    )
    for name, value in request.headers:
        if name.lower() in authorization.signed_headers:
            signed.headers.add_header(name, value)
    signed.context["timestamp"] = stamp
    signer = SigV4Auth(
        Signing(credentials.access_key, credentials.secret_key),
        authorization.service,
        authorization.region,
    )
    canonical = signer.canonical_request(signed)
    found: str = signer.signature(signer.string_to_sign(signed, canonical), signed)
    return found


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
