"""The messages between actors: small, immutable, and without tokens."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.tunnel import messages
from tunnelfleet.actors.tunnel.messages import ConnectionKey

TYPES = [getattr(messages, name) for name in messages.__all__]


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__name__)
def test_every_message_is_an_immutable_tuple_with_a_docstring(type_: type) -> None:
    assert issubclass(type_, tuple)
    assert type_.__doc__
    assert "(" not in type_.__doc__.split("\n")[0][:4], "NamedTuple's own docstring says nothing"


def test_no_message_has_a_token() -> None:
    fields = {field for type_ in TYPES for field in getattr(type_, "_fields", ())}
    assert not [field for field in fields if "token" in field]


def test_keys_of_the_same_connection_are_the_same_key() -> None:
    assert len({ConnectionKey("SSH", 1, 2), ConnectionKey("SSH", 1, 2)}) == 1
    assert ConnectionKey("SSH", 1, 2) != ConnectionKey("SSH", 2, 1)
