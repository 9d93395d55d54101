"""Transcripts: what comes into a tunnel and what must come out, in order and completely.

    << STREAM_START SSH 1/1        from the wire
    == SSH/1/1 opens               what a local socket sees
    :: SSH/1/1 reads hello         what a local application does
    >> DATA SSH 1/1 hello          to the wire

A message is written TYPE [SERVICE] STREAM[/CONNECTION] [PAYLOAD]; `-` is a service id left out, and
`<N>` a payload of N bytes. A star behind the type marks it (docs/protocol.md section 3a), so that
the hello is `DATA* SSH 1/1`. `TunnelRig.play` plays a transcript.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tunnelfleet.proto import DataBurst, Message, MessageType, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN_PAYLOAD_BYTES = 24


def to_text(message: Message) -> str:
    """Write a message as a transcript does."""
    name = MessageType(message.type).name
    if message.type is MessageType.SERVICE_IDS:
        return f"{name} {','.join(message.available_service_ids)}"
    if message.type is MessageType.SESSION_RESET:
        return name
    ids = str(message.stream_id) + (f"/{message.connection_id}" if message.connection_id else "")
    words = [name + "*" * message.ignorable, message.service_id or "-", ids]
    return " ".join([*words, shown(message.payload)] if message.payload else words)


def texts_of(items: Iterable[Message | DataBurst]) -> list[str]:
    """Write messages, and each of those of a burst."""
    return [
        to_text(message)
        for item in items
        for message in (item.messages() if isinstance(item, DataBurst) else (item,))
    ]


def shown(payload: bytes) -> str:
    """A short payload as it is, a long one by its length."""
    if len(payload) <= SHOWN_PAYLOAD_BYTES:
        return payload.decode("latin-1")
    return f"<{len(payload)}>"


def to_payload(text: str) -> bytes:
    size = re.fullmatch(r"<(\d+)>", text)
    return b"x" * int(size[1]) if size else text.encode("latin-1")


def to_message(text: str) -> Message:
    """Read a message of a transcript."""
    name, _, rest = text.partition(" ")
    type_ = MessageType[name.removesuffix("*")]
    if type_ is MessageType.SERVICE_IDS:
        return Message(type_, available_service_ids=tuple(filter(None, rest.split(","))))
    if not rest:
        return Message(type_)
    service_id, _, rest = rest.partition(" ")
    ids, _, payload = rest.partition(" ")
    stream_id, _, connection_id = ids.partition("/")
    return Message(
        type_,
        int(stream_id),
        ignorable=name.endswith("*"),
        service_id="" if service_id == "-" else service_id,
        connection_id=int(connection_id or 0),
        payload=to_payload(payload),
    )


def to_frame(text: str) -> bytes:
    """Read a message of a transcript; return its tunnel frame."""
    return encode_frame(to_message(text))
