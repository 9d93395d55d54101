"""How an operation of the management API fails: AWS's error names, with their HTTP status.

Owns the names. A message is for people and never holds a token; what it repeats of a request was
made printable and bounded by who made it.
"""

# An outcome, in the past tense, as other errors here are named; AWS's names are in `name`.
# ruff: noqa: N818

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """An operation failed, and the caller is told how.

    Attributes:
        name: what stands in the body's `__type`, by which SDKs choose their exception.
        message: for people.
        status: of HTTP.
    """

    name = "InternalServerError"
    status: int = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _ClientError(ApiError):
    status = HTTPStatus.BAD_REQUEST


class ValidationFailed(_ClientError):
    """The input breaks a constraint of the model."""

    name = "ValidationException"


class ResourceNotFound(_ClientError):
    """There is no such tunnel. In the model."""

    name = "ResourceNotFoundException"


class LimitExceeded(_ClientError):
    """There may not be more of it. In the model."""

    name = "LimitExceededException"


class Throttled(_ClientError):
    """It came too often. SDKs try again later."""

    name = "ThrottlingException"


class UnknownOperation(_ClientError):
    """There is no such operation."""

    name = "UnknownOperationException"


class NotSerialized(_ClientError):
    """The body is not JSON of the shape that the operation takes."""

    name = "SerializationException"


class RequestTooLarge(ApiError):
    """The body is larger than any that could be right."""

    name = "RequestEntityTooLargeException"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class ServiceUnavailable(ApiError):
    """Nothing is wrong with the request. SDKs try again later."""

    name = "ServiceUnavailableException"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class InternalError(ApiError):
    """A mistake of ours."""


class _NotAuthenticated(ApiError):
    status = HTTPStatus.FORBIDDEN


class SignatureMissing(_NotAuthenticated):
    """Nobody signed it."""

    name = "MissingAuthenticationTokenException"


class SignatureIncomplete(_ClientError):
    """The `Authorization` header is none of SigV4."""

    name = "IncompleteSignatureException"


class KeyUnknown(_NotAuthenticated):
    """Nobody here has this access key, or this security token."""

    name = "UnrecognizedClientException"


class SignatureInvalid(_NotAuthenticated):
    """It is signed with another secret, at another time, or for another service."""

    name = "InvalidSignatureException"
