from __future__ import annotations

from dataclasses import replace

import pytest

from tunnelfleet.runtime.gateway.config import GatewaySettings
from tunnelfleet.runtime.gateway.config.fleet import ordinal_in


@pytest.mark.parametrize(
    ("name", "ordinal"),
    [("gw-0", 0), ("gw-12", 12), ("7", 7), ("gw", None), ("gw2x", None), ("x-20261126", None)],
)
def test_the_number_at_the_end_of_a_name(name: str, ordinal: int | None) -> None:
    assert ordinal_in(name) == ordinal


def test_what_a_reload_cannot_take_over() -> None:
    settings = GatewaySettings(name="a", admin="unix:x", metrics_token="hunter2")
    newer = replace(settings, drain_seconds=1, connect_rate=2, admin="unix:y")
    assert settings.needing_restart(newer) == ["admin", "connect_rate"]
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("before", "after", "needs_restart"),
    [("old", "new", []), (None, "new", ["admin_token_file"]), ("old", None, ["admin_token_file"])],
)
def test_a_reload_takes_over_another_token(
    before: str | None, after: str | None, needs_restart: list[str]
) -> None:
    settings = GatewaySettings(name="a", admin="127.0.0.1:1", admin_token=before)
    assert settings.needing_restart(replace(settings, admin_token=after)) == needs_restart
