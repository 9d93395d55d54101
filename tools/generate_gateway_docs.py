"""Write the tables of keys in docs/gateway.md and examples/gateway/reference.toml from the schema.

python tools/generate_gateway_docs.py           # write
python tools/generate_gateway_docs.py --check   # fail when they are out of date
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunnelfleet.runtime.gateway.config import json_schema

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "gateway.md"
REFERENCE = ROOT / "examples" / "gateway" / "reference.toml"
BEGIN = "<!-- keys: begin, written by tools/generate_gateway_docs.py -->"
END = "<!-- keys: end -->"

TABLES = {
    "GatewayKeys": ("`[gateway]`", "The process itself. All keys are optional."),
    "TunnelKeys": (
        "`[[tunnel]]`, and `[defaults]`",
        """Needed are a `name`, a `mode`, one of `endpoint` and `region`, one of the three access
tokens, and for a destination `services`. Any key but `name` may stand in `[defaults]`.""",
    ),
    "limits": ("`limits`", "Bounds of one tunnel. The defaults are made for ten thousand of them."),
    "restart": ("`restart`", "Delays before a lost link is made again: exponential, with jitter."),
    "DoorRuleKeys": ("`[[door_rule]]`", "Who may reach what through the front doors."),
    "NotifyKeys": (
        "`[[notify]]`",
        """A broker that tells devices of their tunnels. Needed are `broker`, `things` and
`services`. What `[defaults]` says of other keys, such as `mode`, is not for devices.""",
    ),
    "OnDemandKeys": (
        "`[on_demand]`",
        """Tunnels that are opened when somebody asks: [on-demand.md](on-demand.md). Needed are
`things`, `services` and one of `region` and `endpoint_url`. More comes from `[defaults]`.""",
    ),
}

EXAMPLES = {
    "name": "gw-1",
    "admin": "unix:/run/tunnelfleet/admin.sock",
    "admin_mode": "0660",
    "admin_group": "operators",
    "admin_token_file": "tokens/admin",
    "admin_hosts": ["gw-1.example.com"],
    "metrics_token_file": "tokens/metrics",
    "metrics_hosts": ["gateway.example.com"],
    "state": "sqlite:////var/lib/tunnelfleet/state.db",
    "placement_ordinal": 0,
    "client_token_secret_file": "tokens/secret",
    "door": "127.0.0.1:1080",
    "door_users_file": "door-users",
    "fleet_listen": "0.0.0.0:7443",
    "fleet_address": "gw-1.example.com:7443",
    "fleet_cert": "gw-1.pem",
    "fleet_key": "gw-1.key",
    "fleet_ca": "fleet-ca.pem",
    "mode": "source",
    "endpoint": "wss://tunnels.example.com:8443",
    "region": "eu-west-1",
    "ca": "ca.pem",
    "access_token_file": "tokens/press-4",
    "access_token_env": "PRESS_4_TOKEN",
    "access_token": "AQGAAXi...",
    "client_token": "6d3f1f0e-3a43-4b52-8a7e-1f5b1f3f8a10",
    "services": {"SSH": "127.0.0.1:5555"},
    "labels": {"site": "lyon"},
    "version": "V3",
    "bandwidth": 100_000,
    "pacing": True,
    "marks": True,
    "http_proxy": "http://proxy.example.com:3128",
    "bind": "127.0.0.1",
    "users": ["alice"],
    "tunnels": "press-*",
}
NOTIFY_EXAMPLES = {
    "broker": "mqtts://abc-ats.iot.eu-west-1.amazonaws.com:8883",
    "things": ["press-4", "press-5"],
    "services": {"SSH": "{thing}.plant.lan:22", "HTTP": "10.0.0.{n}:80"},
    "cert_file": "gateway.pem",
    "key_file": "gateway.key",
    "username": "gateway",
    "password_file": "tokens/broker",
    "client_id": "plant-gateway",
    "endpoint_ca": "ca.pem",
    "bind": "0.0.0.0",
}
LEFT_OUT = frozenset(
    {
        "region",
        "access_token_env",
        "access_token",
        "fleet_listen",
        "fleet_address",
        "fleet_cert",
        "fleet_key",
        "fleet_ca",
    }
)
"""Keys that the reference shows as a comment: another one stands for them, or they need more."""

DEMANDED = {
    "region": "eu-west-1",
    "endpoint_url": "http://127.0.0.1:8444",
    "endpoint": "ws://127.0.0.1:8443",
    "profile": "operations",
    "things": ["press-*"],
    "services": ["SSH", "HTTP"],
    "tags": {"cost-center": "4711"},
}
"""Examples of `[on_demand]`, whose keys are called as others are."""

HEAD = """\
# Every key of a gateway's files, with its default or an example. Written from the schema by
# tools/generate_gateway_docs.py; the other files in this folder are what to start from.
"""


def tables() -> str:
    """The tables of keys, for the document."""
    schema = json_schema()["$defs"]
    parts = []
    for name, (title, text) in TABLES.items():
        rows = [row(key, entry) for key, entry in schema[name]["properties"].items()]
        head = [
            f"### {title}",
            "",
            text,
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
        ]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts)


def row(key: str, entry: dict[str, Any]) -> str:
    """The row of a key."""
    default = f"`{toml(entry['default'])}`" if "default" in entry else ""
    meaning = entry["description"].replace("|", "\\|")
    return f"| `{key}` | {kind(entry)} | {default} | {meaning} |"


def kind(entry: dict[str, Any]) -> str:
    """What a key takes, for people."""
    if "$ref" in entry:
        return "table"
    if "anyOf" in entry:
        return " or ".join(kind(each) for each in entry["anyOf"])
    if "const" in entry or "enum" in entry:
        values = entry.get("enum", [entry.get("const")])
        return ", ".join(f"`{toml(value)}`" for value in values)
    names = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "array": "list of texts",
        "object": "table",
    }
    return names[entry["type"]]


def reference() -> str:
    """A file with every key."""
    schema = json_schema()["$defs"]
    tunnel = dict(schema["TunnelKeys"]["properties"])
    limits, restart = tunnel.pop("limits"), tunnel.pop("restart")
    name = {"name": {**tunnel.pop("name"), "example": "press-4"}}
    rule = schema["DoorRuleKeys"]["properties"]
    notify = {
        key: {**entry, **({"example": NOTIFY_EXAMPLES[key]} if key in NOTIFY_EXAMPLES else {})}
        for key, entry in schema["NotifyKeys"]["properties"].items()
        if key not in ("limits", "restart")
    }
    demand = schema["OnDemandKeys"]["properties"]
    parts = [
        HEAD,
        "[gateway]",
        *keys(schema["GatewayKeys"]["properties"]),
        "# Any key of a tunnel but its name.",
        "[defaults]",
        "marks = true",
        "",
        "[[tunnel]]",
        *keys({**name, **tunnel}),
        comment(limits["description"]),
        "[tunnel.limits]",
        *keys(schema["limits"]["properties"]),
        comment(restart["description"]),
        "[tunnel.restart]",
        *keys(schema["restart"]["properties"]),
        "# Who may reach what through the front doors.",
        "[[door_rule]]",
        *keys({**rule, "services": {**rule["services"], "example": ["SSH"]}}),
        "# Brokers that tell devices of their tunnels; limits and restart are as in a tunnel.",
        "[[notify]]",
        *keys(notify),
        "# Tunnels that are opened when somebody asks for them.",
        "[on_demand]",
        *keys(
            {key: {**entry, "example": DEMANDED.get(key)} for key, entry in demand.items()},
            left_out=("endpoint_url", "endpoint", "ca", "profile"),
        ),
    ]
    return "\n".join(parts).rstrip() + "\n"


def keys(properties: dict[str, Any], left_out: Collection[str] = LEFT_OUT) -> list[str]:
    """The lines of a table's keys."""
    lines = []
    for key, entry in properties.items():
        value = entry.get("example") or EXAMPLES.get(key, entry.get("default"))
        if value is None and key == "services":
            value = ["SSH"]
        mark = "# " if key in left_out else ""
        lines += [comment(entry["description"]), f"{mark}{key} = {toml(value)}", ""]
    return lines


def comment(text: str) -> str:
    """A text as comment lines."""
    return "\n".join(textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# "))


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def document(before: str) -> str:
    """The document, with new tables."""
    head, rest = before.split(BEGIN)
    _old, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}"


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description="Write what follows from the gateway's schema.")
    parser.add_argument("--check", action="store_true", help="fail when it is out of date")
    is_check = parser.parse_args().check
    stale = []
    wanted = {DOCUMENT: document(DOCUMENT.read_text()), REFERENCE: reference()}
    for path, text in wanted.items():
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not is_check:
            path.write_text(text)
    if is_check and stale:
        print(
            f"stale: {', '.join(stale)}: run python tools/generate_gateway_docs.py", file=sys.stderr
        )
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
