"""The users of a front door: a file of names and hashed passwords.

Owns the form of the file, a user a line, and how a password is checked:

    alice:$scrypt$ln=14,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$Xm7N...

It is the form of a password hash that other tools know as PHC string, with scrypt (RFC 7914): ln is
the logarithm of its cost, salt and hash are base64 without padding. `tunnelfleet door-user NAME`
writes such a line. A check takes some 50 ms of one core on purpose: it is for a thread that may
wait. No message repeats a line of the file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tunnelfleet.proto import ConfigError

from .secrets import read_private

MAX_USERS = 10_000
MAX_FILE_BYTES = 4 * 1_048_576
MAX_NAME_LENGTH = 64
MAX_PASSWORD_BYTES = 255
"""What RFC 1929 can carry."""
SALT_BYTES, HASH_BYTES = 16, 32
COST_LOG2, BLOCK_SIZE, PARALLELISM = 14, 8, 1
"""16 MiB and some 50 ms: a front door is asked for each connection."""
MAX_PARALLELISM = 16
MIN_DIGEST_BYTES, MAX_DIGEST_BYTES = 16, 64
MAX_MEMORY_BYTES = 64 * 1_048_576
"""A hash that needs more is not taken: logins could not be checked beside each other."""

_HASH = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)


class PasswordHash(NamedTuple):
    """The scrypt hash of a password, with its parameters."""

    cost_log2: int
    block_size: int
    parallelism: int
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return "PasswordHash(...)"

    @classmethod
    def make(cls, password: str) -> PasswordHash:
        """Hash a password with a new salt.

        Raises:
            ConfigError: it is empty, or longer than SOCKS can carry.
        """
        size = len(password.encode())
        if not 0 < size <= MAX_PASSWORD_BYTES:
            raise ConfigError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes, and not {size}")
        unhashed = cls.of_nobody()
        return unhashed._replace(digest=unhashed.derive(password))

    @classmethod
    def of_nobody(cls) -> PasswordHash:
        """One with a new salt, that no password has."""
        salt = os.urandom(SALT_BYTES)
        return cls(COST_LOG2, BLOCK_SIZE, PARALLELISM, salt, bytes(HASH_BYTES))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read what `text` makes.

        Raises:
            ConfigError: it is none.
        """
        found = _HASH.fullmatch(text)
        if found is None:
            raise ConfigError("this is no scrypt hash, $scrypt$ln=14,r=8,p=1$SALT$HASH")
        log2, block, parallel = map(int, found.groups()[:3])
        is_possible = log2 and block and 0 < parallel <= MAX_PARALLELISM
        if not is_possible or 128 * block << log2 > MAX_MEMORY_BYTES:
            raise ConfigError(
                f"the costs of this hash are out of range: it may need {MAX_MEMORY_BYTES >> 20} "
                f"MiB, and p may be {MAX_PARALLELISM}"
            )
        try:
            salt, digest = map(_decode, found.groups()[3:])
        except binascii.Error:
            raise ConfigError("salt or hash of this line is no base64") from None
        if not MIN_DIGEST_BYTES <= len(digest) <= MAX_DIGEST_BYTES:
            raise ConfigError(f"a hash has {MIN_DIGEST_BYTES} to {MAX_DIGEST_BYTES} bytes")
        return cls(log2, block, parallel, salt, digest)

    def text(self) -> str:
        """Return the hash as it stands in the file."""
        costs = f"ln={self.cost_log2},r={self.block_size},p={self.parallelism}"
        return f"$scrypt${costs}${_encode(self.salt)}${_encode(self.digest)}"

    def matches(self, password: str) -> bool:
        """Return whether this is the password. Takes its time, and memory."""
        return hmac.compare_digest(self.derive(password), self.digest)

    def derive(self, password: str) -> bytes:
        """Return what a password comes to, with this salt and these costs."""
        memory_bytes = 128 * self.block_size << self.cost_log2
        return hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=1 << self.cost_log2,
            r=self.block_size,
            p=self.parallelism,
            # OpenSSL counts a little more than RFC 7914 does.
            maxmem=memory_bytes + 128 * self.block_size * (self.parallelism + 2) + 4_096,
            dklen=len(self.digest),
        )


class DoorUsers:
    """The users of a door.

    Args:
        hashes: of their passwords, by name.
    """

    def __init__(self, hashes: Mapping[str, PasswordHash]) -> None:
        self._hashes = dict(hashes)
        # So that an unknown name takes as long as a known one.
        self._nobody = PasswordHash.of_nobody()

    def __len__(self) -> int:
        return len(self._hashes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DoorUsers) and other._hashes == self._hashes

    __hash__ = None  # type: ignore[assignment]

    def check(self, name: str, password: str) -> bool:
        """Whether this is a user with this password. Takes some 50 ms, whatever the answer is."""
        found = self._hashes.get(name, self._nobody)
        return found.matches(password) and name in self._hashes


def check_user_name(name: str) -> None:
    """See that a name can stand in the file, and in a login.

    Raises:
        ConfigError: it cannot.
    """
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or ":" in name:
        raise ConfigError(
            f"a user has a name of 1 to {MAX_NAME_LENGTH} printable characters without a colon"
        )
    if name.startswith("#") or name != name.strip():
        raise ConfigError("the name of a user begins with no # and no blank, and ends with none")


def parse_users(text: str) -> DoorUsers:
    """Read a file of users. Empty lines, and those that begin with #, do not count.

    Raises:
        ConfigError: a line is wrong; the message has its number.
    """
    hashes: dict[str, PasswordHash] = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        try:
            if not colon:
                raise ConfigError("write NAME:HASH, as tunnelfleet door-user NAME does")
            check_user_name(name)
            if name in hashes:
                raise ConfigError(f"user {name!r} is there twice; keep one of the two")
            hashes[name] = PasswordHash.parse(hashed)
        except ConfigError as error:
            raise ConfigError(f"line {number}: {error}") from None
    if not hashes:
        raise ConfigError("there is no user in it; tunnelfleet door-user NAME writes a line")
    if len(hashes) > MAX_USERS:
        raise ConfigError(f"there are {len(hashes)} users; at most {MAX_USERS} are possible")
    return DoorUsers(hashes)


def read_users(path: Path) -> tuple[DoorUsers, str]:
    """Read the file of users, and see who else can.

    Returns:
        The users, and a warning about the file or an empty text.

    Raises:
        ConfigError: it cannot be read, or a line of it is wrong.
    """
    content, warning = read_private(path, MAX_FILE_BYTES)
    try:
        return parse_users(content.decode()), warning
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no UTF-8; save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
