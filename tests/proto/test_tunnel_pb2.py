"""The generated code: up to date, and a good guest in a host's process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tunnelfleet.proto import tunnel_pb2

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "generate_proto.py"


def generate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False
    )


def test_check_passes_then_notices_a_stale_file(tmp_path: Path) -> None:
    for name in ("tunnel.proto", "tunnel_pb2.py", "tunnel_pb2.pyi"):
        (tmp_path / name).write_bytes((ROOT / "proto" / name).read_bytes())
    assert generate("--check", "--proto-dir", tmp_path).returncode == 0

    schema = tmp_path / "tunnel.proto"
    schema.write_text(schema.read_text().replace("connectionId = 7", "connectionId = 9"))
    (tmp_path / "tunnel_pb2.pyi").unlink()
    check = generate("--check", "--proto-dir", tmp_path)
    assert check.returncode == 1
    assert "tunnel_pb2.py is stale" in check.stderr
    assert "tunnel_pb2.pyi is stale" in check.stderr

    assert generate("--proto-dir", tmp_path).returncode == 0
    assert generate("--check", "--proto-dir", tmp_path).returncode == 0


def test_a_host_may_have_a_tunnel_proto_too() -> None:
    assert tunnel_pb2.DESCRIPTOR.name == "tunnelfleet/proto/tunnel.proto"


def test_the_schema_is_that_of_the_protocol() -> None:
    message = tunnel_pb2.Message.DESCRIPTOR
    assert message.full_name == "com.amazonaws.iot.securedtunneling.Message"
    assert {field.name: field.number for field in message.fields} == {
        "type": 1,
        "streamId": 2,
        "ignorable": 3,
        "payload": 4,
        "serviceId": 5,
        "availableServiceIds": 6,
        "connectionId": 7,
    }
