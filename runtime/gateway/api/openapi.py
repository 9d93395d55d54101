"""The OpenAPI 3.1 document of the admin API, made of its operations.

Owns the schemas of bodies. Those of an entry come from the models that read the files, so a key
that is new there is in the document too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import tunnelfleet
from tunnelfleet.runtime import Mode, TunnelState
from tunnelfleet.runtime.gateway.config.schema import json_schema

from .operations import PROBLEM_TYPE, ProblemKind

if TYPE_CHECKING:
    from .operations import Operation, Parameter, Success


REFERENCE = "#/components/schemas/"
OF_FILES_ALONE = ("access_token_file", "access_token_env")
"""Keys that a request cannot have: it must not read files and variables of the gateway."""

TEXT = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
FLAG = {"type": "boolean"}


def make_document(operations: Iterable[Operation], root: str = "/") -> dict[str, Any]:
    """Return the document.

    Args:
        operations: all there are.
        root: the path that the routes are mounted below.
    """
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        item = paths.setdefault(each.path, {})
        if "{name}" in each.path:
            item["parameters"] = [_NAME]
        item[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tunnelfleet gateway",
            "version": tunnelfleet.__version__,
            "description": "The admin API of a fleet gateway. No answer has a token.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root}],
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "At a TCP address. At a Unix socket its permissions decide.",
                }
            },
        },
    }


_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "of the tunnel",
    "schema": {"type": "string", "minLength": 1},
}


ALWAYS = (400, 401, 408, 413, 421, 500, 503)
"""Problems that every operation can have."""


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {str(each.status): _answer(each) for each in operation.answers},
    }
    if operation.parameters:
        found["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body:
        content = {"application/json": {"schema": _reference(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    statuses = {*ALWAYS, *operation.problems}
    if "{name}" in operation.path:
        statuses.add(404)
    for status in sorted(statuses):
        found["responses"][str(status)] = _problem(status)
    return found


def _answer(answer: Success) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.text}
    if answer.schema:
        found["content"] = {answer.media_type: {"schema": _reference(answer.schema)}}
    elif answer.media_type != "application/json":
        found["content"] = {answer.media_type: {"schema": TEXT}}
    if answer.headers:
        found["headers"] = {
            name: {"description": text, "schema": TEXT} for name, text in answer.headers.items()
        }
    return found


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "header" if parameter.is_header else "query",
        "description": parameter.text,
        "schema": dict(parameter.schema),
    }


def _problem(status: int) -> dict[str, Any]:
    titles = [kind.title for kind in ProblemKind if kind.status == status]
    return {
        "description": "; ".join(titles),
        "content": {PROBLEM_TYPE: {"schema": _reference("Problem")}},
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE + name}


# -- schemas


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }
    if required:
        found["required"] = list(required)
    return found


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _map(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _schemas() -> dict[str, Any]:
    return {**_ANSWERS, **_BODIES, **_entries()}


@cache
def _entries() -> dict[str, Any]:
    """Return an entry as it is created, with its name, and as it is put under one.

    They are made once: that takes 50 ms of the event loop.
    """
    of_files = json_schema()["$defs"]
    entry = _moved(of_files["TunnelKeys"])
    for key in OF_FILES_ALONE:
        del entry["properties"][key]
    entry["properties"]["access_token"]["description"] = "The access token; no answer has it."
    for key in ("access_token", "client_token"):
        entry["properties"][key]["writeOnly"] = True
    entry["description"] = "The keys of a [[tunnel]]; docs/gateway.md has all of them."
    return {
        "Tunnel": {**entry, "required": ["name", "mode", "access_token"]},
        "TunnelEntry": {**entry, "required": ["mode"]},
        "limits": _moved(of_files["limits"]),
        "restart": _moved(of_files["restart"]),
    }


def _moved(schema: Any) -> Any:
    """Return a schema with its references changed to where the schemas are in this document."""
    if isinstance(schema, dict):
        return {key: _moved(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_moved(each) for each in schema]
    if isinstance(schema, str):
        return re.sub(r"^#/\$defs/", REFERENCE, schema)
    return schema


_NAMES = _list(TEXT)
_ROW = _object(
    {
        "name": TEXT,
        "mode": {"type": "string", "enum": [each.value for each in Mode]},
        "state": {"type": "string", "enum": [each.value for each in TunnelState]},
        "reason": TEXT,
        "services": _map(TEXT),
        "labels": _map(TEXT),
        "streams": WHOLE,
        "connections": WHOLE,
        "sent_bytes": WHOLE,
        "received_bytes": WHOLE,
        "reconnects": WHOLE,
        "since": NUMBER,
        "source": TEXT,
        "endpoint": TEXT,
        "place": TEXT,
        "channel_id": TEXT,
    },
    {"gateway": TEXT},
)
_FLEET_ROW = _object({**_ROW["properties"], "mode": TEXT, "state": TEXT})
_FLEET_GATEWAY = _object(
    {
        "name": TEXT,
        "address": _or_null(TEXT),
        "is_asked": FLAG,
        "fresh": FLAG,
        "reached": FLAG,
        "trouble": TEXT,
        "shards": _or_null(WHOLE),
        "version": TEXT,
        "tunnels": _map(WHOLE),
    }
)
_PROBLEM_OF_KEY = _object(
    {
        "file": TEXT,
        "line": WHOLE,
        "key": TEXT,
        "message": TEXT,
        "severity": {"type": "string", "enum": ["error", "warning"]},
    }
)
_ANSWERS: dict[str, Any] = {
    "TunnelRow": _ROW,
    "TunnelList": _object({"tunnels": _list(_reference("TunnelRow"))}),
    "NameList": _object({"tunnels": _NAMES}),
    "FleetRow": _FLEET_ROW,
    "FleetGateway": _FLEET_GATEWAY,
    "Fleet": _object(
        {
            "gateways": _list(_reference("FleetGateway")),
            "tunnels": _list(_reference("FleetRow")),
            "next": _or_null(TEXT),
        }
    ),
    "KeyProblem": _PROBLEM_OF_KEY,
    "Problem": _object(
        {"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT},
        {"problems": _list(_reference("KeyProblem"))},
    ),
    "Gateway": _object(
        {
            "name": TEXT,
            "version": TEXT,
            "pid": WHOLE,
            "started": NUMBER,
            "ready": FLAG,
            "reasons": _NAMES,
            "tunnels": _map(WHOLE),
            "wanted": WHOLE,
            "running": WHOLE,
            "placement": _object(
                {
                    "kind": TEXT,
                    "members": WHOLE,
                    "ordinal": WHOLE,
                    "shards": WHOLE,
                    "epoch": WHOLE,
                    "trouble": TEXT,
                }
            ),
            "config": _object(
                {
                    "files": _NAMES,
                    "last_reload_successful": FLAG,
                    "last_reload": NUMBER,
                    "problems": _list(_reference("KeyProblem")),
                }
            ),
            "door": _or_null(TEXT),
            "connect": _or_null(TEXT),
            "metrics": _or_null(TEXT),
        }
    ),
    "ReloadResult": _object(
        {
            "added": _NAMES,
            "changed": _NAMES,
            "removed": _NAMES,
            "unchanged": _NAMES,
            "changes": _map(_object({"keys": _NAMES, "action": TEXT})),
            "needs_restart": _NAMES,
            "problems": _list(_reference("KeyProblem")),
        }
    ),
    "ActorTree": _object(
        {
            "tree": _list(
                _object(
                    {
                        "depth": WHOLE,
                        "id": TEXT,
                        "kind": TEXT,
                        "state": TEXT,
                        "restarts": WHOLE,
                        "reason": TEXT,
                        "detail": TEXT,
                    }
                )
            )
        }
    ),
    "ConnectionList": _object(
        {
            "connections": _list(
                _object(
                    {
                        "tunnel": TEXT,
                        "service_id": TEXT,
                        "stream_id": WHOLE,
                        "connection_id": WHOLE,
                        "peer": TEXT,
                        "user": TEXT,
                        "since": NUMBER,
                        "sent_bytes": WHOLE,
                        "received_bytes": WHOLE,
                    }
                )
            )
        }
    ),
    "AuditList": _object({"records": _list({"type": "object"})}),
    "Document": {"type": "object"},
}
_BODIES: dict[str, Any] = {
    "Tokens": {
        **_object(
            {"access_token": {"type": "string", "writeOnly": True}},
            {"client_token": {"type": ["string", "null"], "writeOnly": True}},
        ),
    },
    "Names": {
        "oneOf": [
            _object({"all": {"const": True}}),
            _object({"names": {**_NAMES, "minItems": 1}}),
        ]
    },
}
