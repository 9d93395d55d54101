"""What may be given to the calls of a tunnel client, and what is said about anything else.

Owns the reading of arguments. A wrong type is a `TypeError` at the call, which says what to pass;
whether the tunnel can do it is for its actors to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tunnelfleet.actors.api_events import Message

__all__ = [
    "check_address",
    "check_message",
    "check_messages",
    "check_seconds",
    "check_start",
    "check_text",
    "payload_view",
]


def check_message(call: str, message: Any) -> None:
    """Refuse what cannot be sent as DATA.

    Args:
        call: for the error, what it was given to.
        message: a `Message` with bytes, or something like bytes, in it.
    """
    if not isinstance(message, Message):
        raise _wrong(call, message, "a Message, as in Message(b'data', 'SSH')")
    check_address(call, message.service_id, message.connection_id)
    payload: Any = message.payload
    if type(payload) is not bytes:
        payload_view(f"{call}: the payload of a Message", payload)


def check_messages(call: str, messages: Any) -> None:
    """Refuse what is no iterable of messages; each of them is looked at when its turn comes."""
    if isinstance(messages, Message):
        raise _wrong(call, messages, "several messages; for one there is send_message")
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | bytearray):
        raise _wrong(call, messages, "an iterable of Message")


def check_start(call: str, service: Any, connection_id: Any) -> tuple[str, int | None]:
    """Return the service id and connection id that a command is for.

    Args:
        call: for the error, what they were given to.
        service: a service id, or a `Message` that has both; None and an empty text stand for the
            only service.
        connection_id: 1 or more; None for the next or the only one.
    """
    if isinstance(service, Message):
        if service.payload:
            raise ValueError(
                f"{call} sends no payload: give it a Message without one, and send the payload "
                "with send_message"
            )
        if connection_id is not None and service.connection_id is not None:
            raise ValueError(f"{call} was given two connection ids: keep the one of the Message")
        if connection_id is None:
            connection_id = service.connection_id
        service = service.service_id
    return check_address(call, service, connection_id)


def check_address(call: str, service_id: Any, connection_id: Any) -> tuple[str, int | None]:
    """Return a service id and connection id as commands have them; see `check_start`."""
    if service_id is not None and not isinstance(service_id, str):
        raise _wrong(call, service_id, "a service id as text, as in 'SSH'")
    is_number = isinstance(connection_id, int) and not isinstance(connection_id, bool)
    if connection_id is not None and not is_number:
        raise _wrong(call, connection_id, "a connection id as a number of 1 or more, or None")
    return service_id or "", connection_id


def check_seconds(call: str, seconds: Any, *, may_be_none: bool = True) -> None:
    """Refuse what is no time."""
    if seconds is None and may_be_none:
        return
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise _wrong(call, seconds, f"seconds as a number{', or None' if may_be_none else ''}")


def check_text(call: str, text: Any) -> None:
    """Refuse what is no text; it is not shown, for it may be a token."""
    if not isinstance(text, str):
        raise TypeError(f"{call}: pass text (str), not {_kind(text)}")


def payload_view(call: str, data: Any) -> memoryview:
    """Return the bytes of what is like bytes."""
    if isinstance(data, str):
        raise TypeError(f"{call}: pass bytes, not text; encode it, as in 'text'.encode()")
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise _wrong(call, data, "bytes, or something like bytes") from None


def _wrong(call: str, value: object, wanted: str) -> TypeError:
    return TypeError(f"{call}: pass {wanted}, not {_kind(value)}")


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
