"""The users of a front door, and their passwords."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config.door_users import (
    DoorUsers,
    PasswordHash,
    parse_users,
    read_users,
)

if TYPE_CHECKING:
    from pathlib import Path

GOOD = PasswordHash.make("secret")
# Of passlib, for "password".
PASSLIB = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"


def test_a_user_is_checked() -> None:
    users = parse_users(f"# our people\n\n alice:{GOOD.text()}\r\n")
    assert len(users) == 1
    assert users.check("alice", "secret")
    assert not users.check("alice", "Secret")
    assert not users.check("bob", "secret")
    assert not users.check("", "")


def test_two_hashes_of_a_password_differ_and_no_repr_shows_one() -> None:
    other = PasswordHash.make("secret")
    assert other.text() != GOOD.text()
    assert repr(other) == "PasswordHash(...)"
    assert PasswordHash.parse(other.text()) == other


def test_hashes_of_other_tools_are_taken() -> None:
    assert PasswordHash.parse(PASSLIB).matches("password")


def test_users_are_equal_by_what_they_are() -> None:
    assert DoorUsers({"a": GOOD}) == DoorUsers({"a": GOOD})
    assert DoorUsers({"a": GOOD}) != DoorUsers({})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no user in it"),
        ("# nobody\n", "there is no user in it"),
        ("alice\n", "line 1: write NAME:HASH"),
        ("\nalice:secret\n", "line 2: this is no scrypt hash"),
        ("#\x1d\x0c\nalice:secret\n", "line 2: this is no scrypt hash"),
        (f"alice:{GOOD.text()}x=\n", "line 1: this is no scrypt hash"),
        (f"alice:{GOOD.text()}\nalice:{GOOD.text()}\n", "line 2: user 'alice' is there twice"),
        (f":{GOOD.text()}\n", "line 1: a user has a name"),
        (f"{'a' * 65}:{GOOD.text()}\n", "line 1: a user has a name"),
        (f"a\x07:{GOOD.text()}\n", "line 1: a user has a name"),
        ("a:$scrypt$ln=20,r=8,p=1$c2FsdA$c2FsdA\n", "costs of this hash are out of range"),
        ("a:$scrypt$ln=14,r=8,p=99$c2FsdA$c2FsdA\n", "costs of this hash are out of range"),
        ("a:$scrypt$ln=0,r=8,p=1$c2FsdA$c2FsdA\n", "costs of this hash are out of range"),
        ("a:$scrypt$ln=14,r=8,p=1$c2FsdA$c2FsdA\n", "a hash has 16 to 64 bytes"),
        ("a:$scrypt$ln=14,r=8,p=1$c2FsdAAAA$c2FsdA\n", "no base64"),
    ],
    ids=lambda each: each.replace(GOOD.text(), "GOOD"),
)
def test_a_wrong_file_is_told_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_users(text)
    assert says in str(caught.value)
    assert "scrypt$ln" not in str(caught.value).replace("$scrypt$ln=14,r=8,p=1$SALT$HASH", "")


@pytest.mark.parametrize("password", ["", "x" * 256, "ö" * 128])
def test_a_password_has_to_fit_into_a_login(password: str) -> None:
    with pytest.raises(ConfigError, match="a password has 1 to 255 bytes"):
        PasswordHash.make(password)


@given(st.text(max_size=200))
def test_any_text_is_users_or_a_mistake(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert len(parse_users(text)) > 0


def test_a_file_is_named_in_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with pytest.raises(ConfigError, match=f"cannot read {path}"):
        read_users(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"{path} is no UTF-8"):
        read_users(path)
    path.write_text("alice\n")
    with pytest.raises(ConfigError, match=f"{path}: line 1: "):
        read_users(path)
    path.write_text(f"alice:{GOOD.text()}\n")
    path.chmod(0o644)
    users, warning = read_users(path)
    assert users.check("alice", "secret")
    assert "everybody can read" in warning
