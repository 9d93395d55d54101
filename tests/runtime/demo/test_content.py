from __future__ import annotations

import random

import pytest

from tunnelfleet.runtime.demo.servers import BLOCK_BYTES, Content, Verifier, count_differences


def test_content_is_the_same_however_it_is_divided() -> None:
    whole = Content("seed").take(50_000)
    rng, content = random.Random(1), Content("seed")
    parts: list[bytes] = []
    while sum(map(len, parts)) < len(whole):
        left = len(whole) - sum(map(len, parts))
        parts.append(content.take(min(left, rng.randint(0, 3 * BLOCK_BYTES))))

    assert b"".join(parts) == whole


def test_content_of_other_seeds_is_other_content() -> None:
    assert count_differences(Content("a").take(10_000), Content("b").take(10_000)) > 9_000


def test_content_does_not_repeat_itself() -> None:
    content = Content("seed")

    assert content.take(BLOCK_BYTES) != content.take(BLOCK_BYTES)


def test_right_content_has_no_mismatch() -> None:
    verifier = Verifier("seed", 10_000)
    data = Content("seed").take(10_000)

    assert [verifier.feed(data[:1]), verifier.feed(data[1:7_000])] == [0, 0]
    assert (verifier.missing_bytes, verifier.is_complete) == (3_000, False)
    assert verifier.feed(data[7_000:]) == 0
    assert (verifier.missing_bytes, verifier.is_complete) == (0, True)


@pytest.mark.parametrize("position", [0, 4_095, 4_096, 9_999])
def test_one_wrong_byte_is_found(position: int) -> None:
    data = bytearray(Content("seed").take(10_000))
    data[position] ^= 1
    verifier = Verifier("seed", 10_000)

    assert verifier.feed(bytes(data)) == 1
    assert verifier.mismatched_bytes == 1


def test_a_lost_byte_makes_what_follows_wrong() -> None:
    data = Content("seed").take(10_000)
    verifier = Verifier("seed", 10_000)

    assert verifier.feed(data[:100] + data[101:]) > 9_000


def test_bytes_beyond_the_end_are_wrong() -> None:
    verifier = Verifier("seed", 100)

    assert verifier.feed(Content("seed").take(107)) == 7
    assert verifier.feed(b"abc") == 3


@pytest.mark.parametrize(
    ("received", "expected", "differences"),
    [(b"", b"", 0), (b"abc", b"abc", 0), (b"abc", b"axc", 1), (b"abcd", b"ab", 2), (b"", b"ab", 2)],
)
def test_differences_are_counted_by_position(
    received: bytes, expected: bytes, differences: int
) -> None:
    assert count_differences(received, expected) == differences
