"""The check of input and output against AWS's model, without a service."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.service.management.model import (
    MAX_PROBLEMS,
    NotSerialized,
    ServiceModel,
    UnknownOperation,
    ValidationFailed,
    _compiled,
    _marked,
    check_output,
)

MODEL = ServiceModel()


def read(operation: str, value: object) -> dict[str, Any]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return MODEL.read_input(MODEL.operation(f"IoTSecuredTunneling.{operation}"), body)


@pytest.mark.parametrize(
    "target",
    ["", "OpenTunnel", "IoTSecuredTunneling.", "IoTSecuredTunneling.Delete", "X.OpenTunnel"],
)
def test_other_targets_are_unknown(target: str) -> None:
    with pytest.raises(UnknownOperation):
        MODEL.operation(target)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"description": NaN}', "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"description": "half a character: \\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"description": 1}', "a string is expected at 'description'"),
        (b'{"destinationConfig": []}', "a structure is expected at 'destinationConfig'"),
        (b'{"destinationConfig": {"services": "SSH"}}', "at 'destinationConfig.services'"),
        (b'{"destinationConfig": {"services": [1]}}', "'destinationConfig.services.1.member'"),
        (b'{"destinationConfig": {"services": [null]}}', "'destinationConfig.services.1.member'"),
        (b'{"timeoutConfig": {"maxLifetimeTimeoutMinutes": true}}', "an? integer is expected"),
        (b'{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 1.5}}', "an? integer is expected"),
    ],
)
def test_what_has_no_such_shape_is_not_read(body: bytes, where: str) -> None:
    with pytest.raises(NotSerialized, match=where):
        read("OpenTunnel", body)


def test_null_is_as_if_it_were_not_there_and_unknown_members_are_left_out() -> None:
    assert read("OpenTunnel", {"description": None, "somethingNew": {"a": 1}}) == {}
    assert read("OpenTunnel", b"") == {}


def test_all_that_is_wrong_is_told_within_bounds() -> None:
    given = {"destinationConfig": {"services": ["!"] * 500}, "description": "\n" * 100_000}
    with pytest.raises(ValidationFailed) as caught:
        read("OpenTunnel", given)
    assert caught.value.message.startswith("501 validation errors detected: ")
    assert caught.value.message.count("failed to satisfy") == MAX_PROBLEMS
    assert len(caught.value.message) < 10_000
    assert caught.value.message.isprintable()


def test_a_required_member_is_missed() -> None:
    with pytest.raises(ValidationFailed, match=r"Value null at 'tunnelId' failed .* not be null"):
        read("DescribeTunnel", {})


@settings(deadline=None)  # the first one makes tables of Unicode
@given(st.text(min_size=1, max_size=50))
def test_descriptions_are_what_unicode_says(text: str) -> None:
    has_control = any(unicodedata.category(each).startswith("C") for each in text)
    value = {"description": text}
    if has_control:
        with pytest.raises((ValidationFailed, NotSerialized)):
            read("OpenTunnel", value)
    else:
        assert read("OpenTunnel", value) == value


@settings(deadline=None)  # the first one makes tables of Unicode
@given(st.text(min_size=1, max_size=20))
def test_tag_keys_are_what_unicode_says(text: str) -> None:
    value = {"tags": [{"key": text, "value": ""}]}
    is_good = all(unicodedata.category(each)[0] in "LZN" or each in "_.:/=+-@" for each in text)
    if is_good:
        assert read("OpenTunnel", value) == value
    else:
        with pytest.raises(ValidationFailed, match=re.escape("tags.1.member.key")):
            read("OpenTunnel", value)


def test_output_has_the_members_of_the_model_and_seconds() -> None:
    operation = MODEL.operation("IoTSecuredTunneling.ListTunnels")
    summary = {"tunnelId": "a", "tunnelArn": "arn", "status": "OPEN", "createdAt": 1.23456}
    body = MODEL.write_output(
        operation, {"tunnelSummaries": [{**summary, "secret": 1}], "nextToken": None}
    )
    assert json.loads(body) == {"tunnelSummaries": [{**summary, "createdAt": 1.235}]}
    check_output(operation, body)


@pytest.mark.parametrize(
    "answer",
    [
        {"unknown": 1},
        {"tunnelSummaries": [{"status": "HALF"}]},
        {"tunnelSummaries": [{"tunnelId": "a b"}]},
        {"tunnelSummaries": [{"createdAt": "2026-01-01"}]},
    ],
)
def test_an_answer_that_is_not_the_models_is_noticed(answer: object) -> None:
    operation = MODEL.operation("IoTSecuredTunneling.ListTunnels")
    with pytest.raises((ValidationFailed, NotSerialized)):
        check_output(operation, json.dumps(answer).encode())


def test_a_pattern_is_small_whatever_its_categories_have() -> None:
    """To list the characters of a category took 0.2 s, in the first request."""
    for category, characters in (("L", "aZ\N{GREEK SMALL LETTER ALPHA}"), ("C", "\0\u202e\ue000")):
        pattern = f"[\\p{{{category}}}]*"
        assert len(_compiled(pattern).pattern) < 1_000
        assert _compiled(pattern).fullmatch(_marked(characters))
        assert not _compiled(pattern).fullmatch(_marked("1"))
