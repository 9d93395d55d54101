"""The words for who a peer is and how it speaks."""

from __future__ import annotations

from tunnelfleet.proto import Mode, ProtocolVersion


def test_modes_are_the_query_parameter_values() -> None:
    assert [str(mode) for mode in Mode] == ["source", "destination"]


def test_versions_are_ordered_numbers() -> None:
    assert [version.value for version in ProtocolVersion] == [1, 2, 3]
    assert ProtocolVersion.V1 < ProtocolVersion.V3
