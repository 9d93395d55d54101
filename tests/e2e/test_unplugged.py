"""A host that is unplugged says nothing: keepalive ends its connections.

In network namespaces of its own, where the system permits that to an ordinary user.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Final

import pytest

SECONDS: Final = 60

PERMITTED = (
    all(shutil.which(program) for program in ("unshare", "nsenter", "ip"))
    and subprocess.run(
        ["unshare", "-rn", "ip", "link", "add", "v", "type", "veth", "peer", "name", "w"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)

CHILD = """
import socket, subprocess, sys, threading
from tunnelfleet.actors.config import Limits, TcpAddress, TunnelConfig
from tunnelfleet.proto import Mode
from tunnelfleet.runtime import TunnelRuntime, TunnelState
from tunnelfleet.runtime.service import TunnelService

HOST = '''
import socket, sys
listener = socket.create_server(("10.9.0.2", 7000))
print("ready", flush=True)
peer, _ = listener.accept()
peer.sendall(b"hello")
sys.stdin.readline()
'''

def ip(*words, inside=None):
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True)

ip("link", "set", "lo", "up")
lan = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
lan.stdout.readline()
ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(lan.pid))
ip("addr", "add", "10.9.0.1/24", "dev", "here")
ip("addr", "add", "10.9.0.2/24", "dev", "there", inside=lan.pid)
ip("link", "set", "here", "up")
ip("link", "set", "there", "up", inside=lan.pid)
host = subprocess.Popen(
    ["nsenter", "-t", str(lan.pid), "-n", sys.executable, "-c", HOST], stdin=-1, stdout=-1
)
host.stdout.readline()

quick = Limits(keepalive_idle_seconds=1, keepalive_interval_seconds=1, keepalive_count=2)
with TunnelService(tls=False) as service, TunnelRuntime(connect_rate_per_second=100) as runtime:
    tokens = service.open_tunnel("t", ["APP"])
    ends = {}
    for mode, token, address in (
        (Mode.DESTINATION, tokens.destination_token, TcpAddress("10.9.0.2", 7000)),
        (Mode.SOURCE, tokens.source_token, TcpAddress("127.0.0.1", 0)),
    ):
        ends[mode] = runtime.open_tunnel(
            TunnelConfig(
                name=mode.value, mode=mode, endpoint=service.endpoint, access_token=token,
                services={"APP": address}, limits=quick,
            )
        )
        ends[mode].wait_for(TunnelState.CONNECTED, 60)
    address = ends[Mode.SOURCE].wait_listening("APP", 60)
    caller = socket.create_connection((address.host, address.port))
    assert caller.recv(5) == b"hello"
    ip("link", "set", "here", "down")
    destination = ends[Mode.DESTINATION]
    gone = runtime.wait_until(lambda: destination.status().connections_active == 0, 60)
    print("gone" if gone else "stays", flush=True)
    caller.close()
for process in (host, lan):
    process.kill()
    process.communicate()
"""


@pytest.mark.skipif(not PERMITTED, reason="network namespaces are not permitted here")
def test_the_connections_of_an_unplugged_host_end() -> None:
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == "gone\n", done.stderr
