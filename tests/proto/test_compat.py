"""Protobuf's form in Python is loaded when something needs it, and not before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROUND_TRIP = """
import sys
from tunnelfleet.proto import Message, MessageType, decode_message, encode_message, tunnel_pb2
from google.protobuf.internal import api_implementation
message = Message(MessageType.DATA, 1, True, b"hello", "SSH", (), 7)
assert decode_message(encode_message(message), strict=True) == message
print(api_implementation.Type(), "google.protobuf.text_format" in sys.modules)
from google.protobuf import json_format, text_format
wire = tunnel_pb2.Message.FromString(encode_message(message))
text = text_format.MessageToString(wire)
assert text_format.Parse(text, tunnel_pb2.Message()) == wire
assert json_format.Parse(json_format.MessageToJson(wire), tunnel_pb2.Message()) == wire
"""


def run(code: str, form: str) -> str:
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": form}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("form", "loads"), [("upb", False), ("python", True)])
def test_either_form_speaks_the_wire(form: str, loads: bool) -> None:
    assert run(ROUND_TRIP, form) == f"{form} {loads}\n"


def test_a_host_that_has_loaded_it_keeps_it() -> None:
    before = "from google.protobuf.internal import python_message as own\n"
    after = "from google.protobuf.internal import python_message\nassert python_message is own\n"
    assert run(before + ROUND_TRIP + after, "upb") == "upb True\n"
