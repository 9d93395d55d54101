r"""AWS's own model of the API: what goes in, what comes out, and how an operation fails.

Owns reading botocore's service model, the check of an input against all that the model says of it
(botocore leaves patterns, upper bounds and enumerations to the service), the JSON of an output, and
AWS's names of errors with their HTTP status. The patterns are Java's; of what Python's lack only
`\p{...}` occurs. A message of an error is for people and never holds a token.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.proto import ConfigError, counted, printable
from tunnelfleet.proto.text import require_whole_characters

if TYPE_CHECKING:
    from botocore.model import OperationModel, Shape

# Outcomes are named in the past tense, as other errors here; AWS's names are in `name`.
# ruff: noqa: N818


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


SERVICE_NAME: Final = "iotsecuretunneling"
TARGET_PREFIX: Final = "IoTSecuredTunneling"
CONTENT_TYPE: Final = "application/x-amz-json-1.1"


def check_installed() -> None:
    """Raise ConfigError if botocore, whose model and signer are used, is not installed."""
    if importlib.util.find_spec("botocore") is None:
        raise ConfigError(
            "the management API needs botocore, which is not installed; "
            "install it with: pip install 'tunnelfleet[aws]'"
        )


class ServiceModel:
    """The operations of the API.

    Raises:
        ConfigError: botocore is not installed.
    """

    def __init__(self) -> None:
        check_installed()
        from botocore.loaders import Loader  # noqa: PLC0415 (an extra)
        from botocore.model import ServiceModel as Model  # noqa: PLC0415

        self._model = Model(Loader().load_service_model(SERVICE_NAME, "service-2"), SERVICE_NAME)

    @property
    def operations(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._model.operation_names)

    def operation(self, target: str) -> OperationModel:
        """Return the operation that an `X-Amz-Target` header names.

        Raises:
            UnknownOperation: it names none.
        """
        prefix, _, name = target.partition(".")
        if prefix != TARGET_PREFIX or name not in self.operations:
            raise UnknownOperation(f"unknown operation: {_shown(target)}")
        return self._model.operation_model(name)

    def read_input(self, operation: OperationModel, body: bytes) -> dict[str, Any]:
        """Return the members of an operation's input that the model knows.

        Raises:
            NotSerialized: the body is no JSON object, or a member has another type.
            ValidationFailed: a member is missing or breaks a constraint.
        """
        shape = operation.input_shape
        given = _parse(body)
        if shape is None:
            return {}
        _check_types(shape, given, "")
        problems = _Problems()
        found = _read(shape, given, "", problems)
        problems.raise_if_any()
        assert isinstance(found, dict)
        return found

    def write_output(self, operation: OperationModel, output: Mapping[str, Any]) -> bytes:
        """Return the body of an answer: the members of the model, times in seconds since 1970."""
        shape = operation.output_shape
        found = {} if shape is None else _write(shape, output)
        return json.dumps(found, separators=(",", ":")).encode()


def check_output(operation: OperationModel, body: bytes) -> None:
    """Raise ValidationFailed or NotSerialized if an answer is not what the model says of it."""
    shape = operation.output_shape
    given = _parse(body)
    if shape is None:
        return
    _check_types(shape, given, "")
    unknown = set(given) - set(shape.members)
    if unknown:
        raise ValidationFailed(f"not in the model: {', '.join(sorted(unknown))}")
    problems = _Problems()
    _read(shape, given, "", problems)
    problems.raise_if_any()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}", parse_constant=_no_constant)
        require_whole_characters(found)
    except (ValueError, RecursionError) as error:
        raise NotSerialized("the body is not JSON") from error
    if not isinstance(found, dict):
        raise NotSerialized("the body is not a JSON object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


# types: what cannot be read at all is told before what is read is judged

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "structure": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "timestamp": (int, float),
}


def _check_types(shape: Shape, value: object, where: str) -> None:
    expected = _TYPES[shape.type_name]
    is_number = shape.type_name in {"integer", "timestamp"}
    if not isinstance(value, expected) or (is_number and isinstance(value, bool)):
        place = f" at '{where}'" if where else ""
        raise NotSerialized(f"a {shape.type_name} is expected{place}")
    for place, member, inner in _inner(shape, value):
        _check_types(member, inner, f"{where}.{place}".lstrip("."))


def _inner(shape: Shape, value: object) -> Iterator[tuple[str, Shape, object]]:
    """Yield what is in a structure or a list, with its place and its shape."""
    if isinstance(value, dict):
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield name, member, value[name]
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield f"{number}.member", shape.member, item


# constraints


MAX_PROBLEMS: Final = 20
"""So many are told of one request."""


class _Problems:
    def __init__(self) -> None:
        self._found: list[str] = []
        self._count = 0

    def add(self, where: str, value: object, constraint: str, *, is_secret: bool = False) -> None:
        self._count += 1
        if len(self._found) < MAX_PROBLEMS:
            shown = "***" if is_secret else _shown(value)
            self._found.append(
                f"Value {shown} at '{where}' failed to satisfy constraint: {constraint}"
            )

    def raise_if_any(self) -> None:
        if self._count:
            errors = counted(self._count, "validation error")
            raise ValidationFailed(f"{errors} detected: {'; '.join(self._found)}")


def _read(shape: Shape, value: Any, where: str, problems: _Problems) -> Any:
    if shape.type_name == "structure":
        return _read_structure(shape, value, where, problems)
    if shape.type_name == "list":
        _check_size(shape, len(value), value, where, problems, "length")
        places = (f"{where}.{number}.member" for number in itertools.count(1))
        return [
            _read(shape.member, item, place, problems)
            for item, place in zip(value, places, strict=False)
        ]
    if shape.type_name == "string":
        _check_string(shape, value, where, problems)
    elif shape.type_name == "integer":
        _check_size(shape, value, value, where, problems, "value")
    return value


def _read_structure(
    shape: Shape, value: dict[str, Any], where: str, problems: _Problems
) -> dict[str, Any]:
    given = {name: each for name, each in value.items() if each is not None}
    places = {name: f"{where}.{name}".lstrip(".") for name in shape.members}
    for name in shape.required_members:
        if name not in given:
            problems.add(places[name], None, "Member must not be null")
    return {
        name: _read(member, given[name], places[name], problems)
        for name, member in shape.members.items()
        if name in given
    }


def _check_string(shape: Shape, value: str, where: str, problems: _Problems) -> None:
    metadata, is_secret = shape.metadata, bool(shape.metadata.get("sensitive"))
    _check_size(shape, len(value), value, where, problems, "length")
    names = metadata.get("enum")
    if names and value not in names:
        constraint = f"Member must satisfy enum value set: [{', '.join(names)}]"
        problems.add(where, value, constraint, is_secret=is_secret)
    pattern = metadata.get("pattern")
    if pattern and not _compiled(pattern).fullmatch(_marked(value)):
        constraint = f"Member must satisfy regular expression pattern: {pattern}"
        problems.add(where, value, constraint, is_secret=is_secret)


def _check_size(
    shape: Shape, size: int, value: object, where: str, problems: _Problems, what: str
) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    kind = "have length" if what == "length" else "have value"
    if least is not None and size < least:
        problems.add(where, value, f"Member must {kind} greater than or equal to {least}")
    if most is not None and size > most:
        problems.add(where, value, f"Member must {kind} less than or equal to {most}")


MAX_SHOWN_CHARACTERS: Final = 128
"""So much is repeated of a value that is wrong."""


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return f"'{printable(str(value), MAX_SHOWN_CHARACTERS)}'"


_PROPERTY: Final = re.compile(r"\\p\{(\w+)\}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(_PROPERTY.sub(lambda match: _characters(match[1]), pattern))


_CATEGORIES: Final = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"),
    *("Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"),
)
"""All general categories of Unicode."""
_FIRST_MARK: Final = 0xE000
_MARKS: Final = {each: chr(_FIRST_MARK + number) for number, each in enumerate(_CATEGORIES)}
"""What stands for all characters of a category, other than ASCII's.

The literals of patterns are ASCII, so nothing but its category decides on another character. To
list the characters of one takes 0.2 s, in which nobody else has a turn."""


def _characters(category: str) -> str:
    r"""Return what stands for ``\p{category}`` within brackets of a pattern of Python."""
    ascii_ones = [chr(code) for code in range(128)]
    found = [each for each in ascii_ones if unicodedata.category(each).startswith(category)]
    marks = [mark for name, mark in _MARKS.items() if name.startswith(category)]
    return "".join(f"\\U{ord(each):08x}" for each in (*found, *marks))


def _marked(text: str) -> str:
    """Return the text with marks in the place of all characters that are not ASCII."""
    if text.isascii():
        return text
    return "".join(each if each.isascii() else _MARKS[unicodedata.category(each)] for each in text)


# output


def _write(shape: Shape, value: Any) -> Any:
    if shape.type_name == "structure":
        return {
            name: _write(member, value[name])
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if shape.type_name == "list":
        return [_write(shape.member, item) for item in value]
    if isinstance(value, datetime.datetime):
        return round(value.timestamp(), 3)
    if shape.type_name == "timestamp":
        return round(float(value), 3)
    return value
