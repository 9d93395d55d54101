"""A bastion: open a tunnel to each device of a fleet and run a command over SSH on all of them.

    python examples/bastion.py --devices 5 -- uname -a

It runs by itself: the embedded service, and devices whose tunnels end at an sshd. By default that
is a private one, with keys of its own, which needs sshd, ssh and ssh-keygen; with --sshd and --ssh
it is yours:

    python examples/bastion.py --sshd 192.168.1.7:22 --ssh "ssh -l admin" -- uptime
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    Tunnel,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    parse_address,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime import Address

READY_SECONDS = 20.0
COMMAND_SECONDS = 60.0
AT_ONCE = 8


def program(name: str) -> str:
    """The path of a program, or the end."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is not installed: install OpenSSH, or give --sshd and --ssh")
    return found


@contextlib.contextmanager
def private_sshd() -> Iterator[tuple[Address, list[str]]]:
    """An sshd with keys of its own; where it listens, and the ssh command that may log in."""
    with tempfile.TemporaryDirectory(prefix="bastion-") as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        for key in ("host_key", "user_key"):
            keygen = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*keygen, str(folder / key)], check=True)  # noqa: S603
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/user_key.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        )
        host_key = (folder / "host_key.pub").read_text().split()
        (folder / "known_hosts").write_text(f"device {host_key[0]} {host_key[1]}\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [program("sshd"), "-D", "-e", "-f", str(folder / "config")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:  # noqa: S603
            try:
                wait_for_port(port)
                yield TcpAddress("127.0.0.1", port), ssh_command(folder)
            finally:
                server.terminate()


def ssh_command(folder: Path) -> list[str]:
    """How to log in with the keys of a folder, and nothing of the user's own."""
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "device",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    login = ["-F", "none", "-i", str(folder / "user_key"), "-l", getpass.getuser()]
    return [program("ssh"), *login, *pairs]


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


class Bastion:
    """The source side: a tunnel to each device, and commands through them.

    Args:
        service: the tunneling service; AWS's in real life.
        runtime: holds the tunnels.
        ssh: the ssh command.
    """

    def __init__(self, service: TunnelService, runtime: TunnelRuntime, ssh: list[str]) -> None:
        self._service = service
        self._runtime = runtime
        self._ssh = ssh

    def open(self, device: str, sshd: Address) -> Tunnel:
        """Open a tunnel to a device; here its own end is in this program as well."""
        tokens = self._service.open_tunnel(device, ["SSH"])
        ends = {
            Mode.DESTINATION: (tokens.destination_token, sshd),
            Mode.SOURCE: (tokens.source_token, TcpAddress("127.0.0.1", 0)),
        }
        opened = {
            mode: self._runtime.open_tunnel(
                TunnelConfig(
                    name=f"{device} {mode}",
                    mode=mode,
                    endpoint=Endpoint.parse(self._service.endpoint),
                    access_token=token,
                    services={"SSH": address},
                )
            )
            for mode, (token, address) in ends.items()
        }
        return opened[Mode.SOURCE]

    def run(self, device: str, sshd: Address, command: list[str]) -> tuple[str, int, str]:
        """Open a device's tunnel, run the command there, close the tunnel."""
        tunnel = self.open(device, sshd)
        try:
            for mode in Mode:
                end = self._runtime.tunnel(f"{device} {mode}")
                end.wait_for(TunnelState.CONNECTED, READY_SECONDS)
            address = tunnel.wait_listening("SSH", READY_SECONDS)
            assert isinstance(address, TcpAddress)
            done = subprocess.run(  # noqa: S603
                [*self._ssh, "-p", str(address.port), address.host, shlex.join(command)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
            return device, done.returncode, (done.stdout or done.stderr).strip()
        finally:
            for mode in Mode:
                self._runtime.close_tunnel(f"{device} {mode}")


def main() -> int:
    """Read the command line, then run it on every device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--sshd", help="HOST:PORT of the devices' sshd instead of a private one")
    parser.add_argument("--ssh", default="ssh", help="the ssh command for --sshd")
    parser.add_argument("command", nargs="*", default=["uname", "-a"], help="what to run")
    options = parser.parse_args()

    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if options.sshd:
            sshd, ssh = parse_address(options.sshd), shlex.split(options.ssh)
        else:
            sshd, ssh = stack.enter_context(private_sshd())
        service = stack.enter_context(TunnelService())
        runtime = stack.enter_context(
            TunnelRuntime(ssl_context=service.ssl_context(), connect_rate_per_second=50)
        )
        bastion = Bastion(service, runtime, ssh)
        progress = stack.enter_context(
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
        )
        task = progress.add_task(shlex.join(options.command), total=options.devices)
        failed = 0
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            names = [f"device-{number}" for number in range(1, options.devices + 1)]
            runs = [pool.submit(bastion.run, name, sshd, options.command) for name in names]
            for run in concurrent.futures.as_completed(runs):
                device, status, output = run.result()
                failed += status != 0
                print(f"{device}: {output}" if status == 0 else f"{device}: FAILED {output}")
                progress.advance(task)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
