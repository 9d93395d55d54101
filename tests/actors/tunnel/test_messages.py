"""The messages between actors: small, immutable, and silent about tokens."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.tunnel import messages
from tunnelfleet.actors.tunnel.messages import ConnectionKey, ReplaceToken

TYPES = [getattr(messages, name) for name in messages.__all__]


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__name__)
def test_every_message_is_an_immutable_tuple_with_a_docstring(type_: type) -> None:
    assert issubclass(type_, tuple)
    assert type_.__doc__
    assert "(" not in type_.__doc__.split("\n")[0][:4], "NamedTuple's own docstring says nothing"


def test_a_token_is_in_no_repr() -> None:
    message = ReplaceToken("visible", "visible")
    assert "visible" not in f"{message!r} {message}"


def test_keys_of_the_same_connection_are_the_same_key() -> None:
    assert len({ConnectionKey("SSH", 1, 2), ConnectionKey("SSH", 1, 2)}) == 1
    assert ConnectionKey("SSH", 1, 2) != ConnectionKey("SSH", 2, 1)
