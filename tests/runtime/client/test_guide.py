"""docs/client-guide.md shows only what runs, and has a section for each of the C++ SDK's guide."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tunnelfleet.runtime
from tunnelfleet.runtime import SecureTunnel, SecureTunnelBuilder
from tunnelfleet.runtime.client.options import CALLBACKS, SecureTunnelOptions

ROOT = Path(__file__).parent.parent.parent.parent
GUIDE = (ROOT / "docs" / "client-guide.md").read_text(encoding="utf-8")
RUN_SECONDS = 200

EXPECTED_OUTPUT = [
    "wss://data.tunneling.iot.eu-west-1.amazonaws.com",
    "('SSH',)",
    "('SSH',)",
    "Message received on service id: 'ssh'\nMessage has payload: b'any payload'",
    "('SSH',)\n('SSH',)",
    "refused\n('SSH',)",
    "not started",
    "written",
    "stream of A\nconnection 2\nno connection 2",
    "all received\nnot whole: reset by the peer",
    "NoActiveStream: ",
    "9999 written\n10000 received",
    "b'hello'",
    "version 1.2\nthrough a socket",
    "device is connected\nreceived hello",
]
SECTIONS_OF_THE_CPP_GUIDE = [
    "Introduction",
    "How to create a secure tunnel client",
    "Callbacks",
    "Setting secure tunnel callbacks",
    "How to start and stop",
    "Start",
    "Stop",
    "Secure tunnel operations",
    "Send message",
]


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXPECTED_OUTPUT)))
def test_the_program_runs(number: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(programs()[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert EXPECTED_OUTPUT[number] in done.stdout
    assert "Traceback" not in done.stderr


def test_every_program_has_its_output() -> None:
    assert len(programs()) == len(EXPECTED_OUTPUT)


def test_the_sections_of_the_cpp_guide_are_there_in_order() -> None:
    titles = re.findall(r"^#{2,3} (.+)$", GUIDE, flags=re.MULTILINE)
    places = [titles.index(title) for title in SECTIONS_OF_THE_CPP_GUIDE]
    assert places == sorted(places)


def test_every_link_within_the_guide_leads_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", GUIDE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_the_tables_name_what_there_is() -> None:
    for name, kind in CALLBACKS.items():
        assert f"| `{name}` | `{kind.__name__}` |" in GUIDE
        assert f"`with_{name}`" in GUIDE
    for option in SecureTunnelOptions.__annotations__:
        if not option.startswith("on_"):
            assert f"| `{option}` | `with_{option}` |" in GUIDE
    for name in re.findall(r"`(with_\w+)`", GUIDE):
        assert name == "with_on_" or hasattr(SecureTunnelBuilder, name)
    errors = GUIDE.split("### What can be wrong with a message", 1)[1].split("###", 1)[0]
    names = re.findall(r"^\| `(\w+)` \| ", errors, flags=re.MULTILINE)
    assert len(names) == 12
    assert all(issubclass(getattr(tunnelfleet.runtime, name), Exception) for name in names)
    for name in re.findall(r"`(send_\w+)\(", GUIDE):
        assert hasattr(SecureTunnel, name)
