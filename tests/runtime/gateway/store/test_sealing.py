from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.store.sealing import Sealer, SealingError

SECRET = b"s" * 32
VALUES = {"access_token": "a" * 40, "client_token": "c" * 32}
SEALER = Sealer(SECRET, "gw")
SEALED = SEALER.seal("press-4", VALUES)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=9), st.text(max_size=99), max_size=3))
def test_what_was_sealed_opens(name: str, values: dict[str, str]) -> None:
    sealed = SEALER.seal(name, values)
    assert SEALER.unseal(name, sealed, SEALER.key_id) == values


def test_it_is_another_text_each_time() -> None:
    assert SEALER.seal("press-4", VALUES) != SEALED


def test_another_process_with_the_same_secret_opens_it() -> None:
    again = Sealer(SECRET, "gw")
    assert again.key_id == SEALER.key_id
    assert again.unseal("press-4", SEALED, SEALER.key_id) == VALUES


@pytest.mark.parametrize(
    ("sealer", "name"), [(SEALER, "press-5"), (Sealer(SECRET, "other"), "press-4")]
)
def test_it_is_bound_to_its_tunnel_and_gateway(sealer: Sealer, name: str) -> None:
    with pytest.raises(SealingError, match="belong to another tunnel or gateway"):
        sealer.unseal(name, SEALED, sealer.key_id)


def test_another_secret_is_told_apart_from_damage() -> None:
    other = Sealer(b"o" * 32, "gw")
    with pytest.raises(SealingError, match="another secret"):
        other.unseal("press-4", SEALED, SEALER.key_id)
    with pytest.raises(SealingError, match="were changed"):
        other.unseal("press-4", SEALED, other.key_id)


@given(st.integers(1, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    torn = bytearray(SEALED)
    torn[place] ^= change
    with pytest.raises(SealingError, match="were changed"):
        SEALER.unseal("press-4", bytes(torn), SEALER.key_id)


@pytest.mark.parametrize(
    "sealed",
    [b"", b"\x01", b"\x02" + SEALED[1:], SEALED[:12]],
    ids=["empty", "bare", "other", "cut"],
)
def test_another_form_is_said(sealed: bytes) -> None:
    with pytest.raises(SealingError, match="a form that this program does not know"):
        SEALER.unseal("press-4", sealed, SEALER.key_id)


def test_nothing_shows_the_key_or_the_secret() -> None:
    assert repr(SEALER) == f"Sealer({SEALER.key_id})"
    assert SECRET.hex() not in SEALER.key_id
