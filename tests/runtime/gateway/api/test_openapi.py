"""The OpenAPI document: it is one, it names all routes, and what it says holds under attack."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import positive_data_acceptance

from tests.runtime.gateway.api.support import Client, Rig, entry
from tests.support.fleet import wanted
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.api.app import OPERATIONS
from tunnelfleet.runtime.gateway.api.openapi import make_document

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = Path(__file__).parents[4] / "docs" / "gateway.md"
BEARER = "b" * 40
EXAMPLES = 12
"""Of each operation and kind of data."""
SEED = 20261126
ENDLESS = "/v1/events"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(OPERATIONS)


def component(document: dict[str, Any], name: str) -> Any:
    """A validator of one of the document's schemas."""
    schema = {**document["components"]["schemas"][name], "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


class TestDocument:
    def test_it_is_an_openapi_document(self, document: dict[str, Any]) -> None:
        schemathesis.openapi.from_dict(copy.deepcopy(document)).validate()

    def test_its_schemas_are_schemas(self, document: dict[str, Any]) -> None:
        for name, schema in document["components"]["schemas"].items():
            jsonschema_rs.meta.validate(schema)
            assert component(document, name)

    def test_it_is_served_and_names_all_routes(
        self, client: Client, document: dict[str, Any]
    ) -> None:
        answer = client.get("/v1/openapi.json")
        assert answer.json == document
        paths = answer.json["paths"]
        assert {(e.method.lower(), e.path) for e in OPERATIONS} == {
            (method, path)
            for path, item in paths.items()
            for method in item
            if method != "parameters"
        }
        ids = [each.id for each in OPERATIONS]
        assert len(set(ids)) == len(ids)

    def test_the_guide_has_all_routes(self) -> None:
        guide = GUIDE.read_text()
        assert [each.id for each in OPERATIONS if f"`{each.method} {each.path}" not in guide] == []

    def test_all_keys_of_an_entry_but_those_that_read_the_machine(
        self, document: dict[str, Any]
    ) -> None:
        keys = document["components"]["schemas"]["Tunnel"]["properties"]
        assert {"name", "services", "limits", "restart", "access_token"} <= keys.keys()
        assert not keys.keys() & {"access_token_file", "access_token_env"}

    def test_a_good_entry_is_good_in_both(self, client: Client, document: dict[str, Any]) -> None:
        given = entry(limits={"max_connections": 4}, restart={"factor": 3}, labels={"a": "b"})
        component(document, "Tunnel").validate(given)
        answer = client.ask("POST", "/v1/tunnels", given)
        component(document, "TunnelRow").validate(answer.json)
        assert answer.status == 201

    def test_answers_are_as_it_says(self, client: Client, document: dict[str, Any]) -> None:
        for path, name in [
            ("tunnels", "TunnelList"),
            ("tunnels/a", "TunnelRow"),
            ("gateway", "Gateway"),
            ("actors", "ActorTree"),
            ("tunnels/nobody", "Problem"),
        ]:
            component(document, name).validate(client.get(f"/v1/{path}").json)
        found = client.ask("POST", "/v1/reload").json
        component(document, "ReloadResult").validate(found)


@pytest.fixture(scope="module")
def schema(document: dict[str, Any]) -> Any:
    """What schemathesis knows of the API."""
    return schemathesis.openapi.from_dict(copy.deepcopy(document))


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Rig]:
    """A gateway at a TCP address."""
    with Rig(tmp_path, wanted("a"), place=TcpAddress("127.0.0.1", 0), token=BEARER) as rig:
        yield rig


POSITIVE, NEGATIVE = schemathesis.GenerationMode
ATTACKS = [
    pytest.param(each, mode, id=f"{mode.value} {each.method} {each.path}")
    for each in OPERATIONS
    # The answer of events does not end; test_events has it.
    if each.path != ENDLESS
    for mode in (POSITIVE, NEGATIVE)
    # Without a body and a query there is nothing that can be wrong.
    if mode is POSITIVE or each.body or any(not p.is_header for p in each.parameters)
]


@pytest.mark.parametrize(("operation", "mode"), ATTACKS)
def test_schemathesis(
    attacked: Rig, schema: Any, operation: Any, mode: schemathesis.GenerationMode
) -> None:
    rig = attacked
    strategy = schema[operation.path][operation.method].as_strategy(generation_mode=mode)
    headers = {"Authorization": f"Bearer {BEARER}"}
    statuses = set()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def attack(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=rig.server.url, headers=headers)
        # What goes together in an entry, no schema can say: 422 is a right answer.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        statuses.add(response.status_code)

    attack()
    assert statuses
    assert rig.client.ask("GET", "/v1/gateway", headers=headers).status == 200
