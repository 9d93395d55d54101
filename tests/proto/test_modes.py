"""The words for who a peer is and how it speaks."""

from __future__ import annotations

import pytest

from tunnelfleet.proto import Mode, ProtocolVersion


def test_modes_are_the_query_parameter_values() -> None:
    assert [str(mode) for mode in Mode] == ["source", "destination"]


def test_versions_are_ordered_numbers() -> None:
    assert [version.value for version in ProtocolVersion] == [1, 2, 3]
    assert ProtocolVersion.V1 < ProtocolVersion.V3


@pytest.mark.parametrize("version", ProtocolVersion, ids=lambda version: version.name)
def test_a_version_is_written_by_its_name(version: ProtocolVersion) -> None:
    for given in (version, version.name, version.name.lower()):
        assert ProtocolVersion.parse(given) is version


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("V4", "'V4' is"),
        ("", "'' is"),
        ("3", "'3' is"),
        (3, "3 is"),
        (3.0, "3.0 is"),
        (True, "True is"),
        (None, "None is"),
        ("V3\x1b", "'V3\\x1b' is"),
        ("AQGAAXj4Zx-a-token-in-the-wrong-place", "it is"),
    ],
    ids=repr,
)
def test_another_version_is_told_those_there_are(given: object, shown: str) -> None:
    with pytest.raises(ValueError, match=r"write V1, V2 or V3$") as caught:
        ProtocolVersion.parse(given)  # type: ignore[arg-type]
    assert str(caught.value) == f"{shown} no version of the protocol; write V1, V2 or V3"
