from __future__ import annotations

from dataclasses import fields

import pytest
from pydantic import ValidationError

from tunnelfleet.runtime import Backoff, Limits
from tunnelfleet.runtime.gateway.config.schema import (
    FileKeys,
    LimitKeys,
    RestartKeys,
    TunnelKeys,
    json_schema,
    known_keys,
)


def test_limits_and_delays_are_those_of_the_core() -> None:
    core = {each.name for each in fields(Limits)} - {"backoff"}
    assert set(LimitKeys.model_fields) == core
    assert set(RestartKeys.model_fields) == {each.name for each in fields(Backoff)}


def test_every_key_is_described() -> None:
    schema = json_schema()
    tables = {**schema["$defs"], "file": schema}
    keys = [(name, key) for name, table in tables.items() for key in table["properties"]]
    assert ("limits", "max_connections") in keys
    assert ("GatewayKeys", "admin") in keys
    for name, key in keys:
        assert tables[name]["properties"][key]["description"].endswith("."), (name, key)


def test_the_schema_speaks_toml() -> None:
    text = str(json_schema())
    assert "'null'" not in text
    assert "'title': 'Name'" not in text
    limits = json_schema()["$defs"]["limits"]["properties"]
    assert limits["max_connections"]["default"] == Limits().max_connections


def test_a_value_of_another_type_is_not_bent() -> None:
    with pytest.raises(ValidationError):
        TunnelKeys.model_validate({"name": "a", "bandwidth": "5"})
    with pytest.raises(ValidationError):
        FileKeys.model_validate({"gateway": {"metrics_open": 1}})


def test_known_keys_are_by_table() -> None:
    known = known_keys(TunnelKeys)
    assert "access_token_file" in known[""]
    assert "max_connections" in known["limits"]
