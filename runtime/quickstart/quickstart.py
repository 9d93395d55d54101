"""Quickstart: a tunneling service, three devices and a gateway, ready in seconds.

Owns the folder in which all of it stands, the order of start and end, and what is told: the address
of the status page and the commands to try. Service and devices run in this process; the gateway is
a process of its own, `tunnelfleet up`, with files that can be edited while it runs.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TunnelConfig, TunnelRuntime, TunnelState, parse_address
from tunnelfleet.runtime.service import TunnelService, TunnelTokens
from tunnelfleet.runtime.service.files import QUICKSTART_PREFIX, TemporaryFolder

from .processes import GatewayProcess, Sshd, Try, WebServer, find_sshd

DEVICES: Final = ("press-1", "press-2", "press-3")
READY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class QuickstartOptions:
    """Options of a Quickstart.

    Attributes:
        metrics: where the gateway's pages are served; port 0 for a free one.
        ssh: whether an sshd stands behind the tunnels, if one is installed.
    """

    metrics: str = "127.0.0.1:0"
    ssh: bool = True


@dataclass(slots=True)
class Ready:
    """What a quickstart has when it is up."""

    page: str
    fleet: Path
    log: Path
    tries: list[Try] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what is there, for programs."""
        return {
            "event": "ready",
            "page": self.page,
            "fleet": str(self.fleet),
            "log": str(self.log),
            "try": [{"command": each.command, "shows": each.shows} for each in self.tries],
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        """Return what is there in lines for people."""
        return [
            f"A service, {len(DEVICES)} devices and a gateway are up after {self.seconds:.1f} s.",
            "",
            f"  status page  {self.page}",
            f"  log          {self.log}",
            f"  fleet        {self.fleet}",
            "               Change it and save: the gateway follows.",
            "",
            "Try in another terminal:",
            *(
                line
                for each in self.tries
                for line in ("", f"  # {each.shows}", f"  {each.command}")
            ),
            "",
            "Ctrl-C ends all of it.",
        ]


FLEET: Final = """\
# The fleet of a quickstart. Change it and save: the gateway follows.
[gateway]
name = "quickstart"
metrics = "{metrics}"
connect_rate = 100
drain_seconds = 2

[defaults]
mode = "source"
endpoint = "{endpoint}"
ca = "ca.pem"
"""
TUNNEL: Final = """
[[tunnel]]
name = "{name}"
access_token_file = "tokens/{name}"
services = {{ {services} }}
labels = {{ site = "{site}" }}
"""


class Quickstart:
    """A fleet to play with. Use it as a context manager.

    Args:
        options: see there.
    """

    def __init__(self, options: QuickstartOptions | None = None) -> None:
        self._options = options or QuickstartOptions()
        self._stack = contextlib.ExitStack()
        self._gateway: GatewayProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self) -> Ready:
        """Start all of it, and wait until every tunnel is connected.

        Raises:
            TunnelError: a part does not start; what was started is ended on leaving.
        """
        began = time.monotonic()
        # The next service or quickstart removes it, should this process be killed.
        temporary = TemporaryFolder(QUICKSTART_PREFIX)
        self._stack.callback(temporary.remove)
        folder = temporary.path
        service = self._stack.enter_context(TunnelService(host="127.0.0.1", port=0))
        runtime = self._stack.enter_context(TunnelRuntime())
        sshd = self._start_sshd(folder)
        tokens = {name: self._start_device(name, service, runtime, sshd) for name in DEVICES}
        fleet = self._write_fleet(folder, service, tokens, has_ssh=sshd is not None)
        gateway = self._stack.enter_context(GatewayProcess(fleet, folder))
        self._gateway = gateway
        listening = gateway.wait_ready(
            {(name, service_id) for name, each in tokens.items() for service_id in each.services},
            READY_SECONDS,
        )
        for name in DEVICES:
            runtime.tunnel(name).wait_for(TunnelState.CONNECTED, READY_SECONDS)
        ready = Ready(f"{gateway.url}/", fleet, folder / "gateway.log")
        ready.tries = self._tries(folder, sshd, listening, gateway)
        ready.seconds = time.monotonic() - began
        return ready

    def wait(self, seconds: float) -> bool:
        """Wait for the gateway's end.

        Returns:
            Whether it has ended by itself.
        """
        assert self._gateway is not None
        return self._gateway.wait(seconds)

    # -- parts

    def _start_sshd(self, folder: Path) -> Sshd | None:
        programs = find_sshd() if self._options.ssh else None
        if programs is None:
            return None
        keys = folder / "ssh"
        keys.mkdir(mode=0o700)
        return self._stack.enter_context(Sshd(keys, programs))

    def _start_device(
        self, name: str, service: TunnelService, runtime: TunnelRuntime, sshd: Sshd | None
    ) -> TunnelTokens:
        targets = {"HTTP": self._stack.enter_context(WebServer(name)).address}
        if sshd is not None:
            targets["SSH"] = sshd.address
        tokens = service.open_tunnel(name, list(targets))
        runtime.open_tunnel(
            TunnelConfig(
                name=name,
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(service.endpoint),
                access_token=tokens.destination_token,
                services={key: parse_address(target) for key, target in targets.items()},
                ssl_context=service.ssl_context(),
            )
        )
        return tokens

    def _write_fleet(
        self,
        folder: Path,
        service: TunnelService,
        tokens: dict[str, TunnelTokens],
        *,
        has_ssh: bool,
    ) -> Path:
        assert service.ca_path is not None
        shutil.copy(service.ca_path, folder / "ca.pem")
        (folder / "tokens").mkdir(mode=0o700)
        text = FLEET.format(metrics=self._options.metrics, endpoint=service.endpoint)
        for number, (name, each) in enumerate(tokens.items()):
            path = folder / "tokens" / name
            path.touch(mode=0o600)
            path.write_text(each.source_token)
            services = ["HTTP", "SSH"] if has_ssh else ["HTTP"]
            text += TUNNEL.format(
                name=name,
                services=", ".join(f'{key} = "127.0.0.1:0"' for key in services),
                site="lyon" if number % 2 == 0 else "nantes",
            )
        fleet = folder / "fleet.toml"
        fleet.write_text(text)
        return fleet

    def _tries(
        self,
        folder: Path,
        sshd: Sshd | None,
        listening: dict[tuple[str, str], str],
        gateway: GatewayProcess,
    ) -> list[Try]:
        first = DEVICES[0]
        found = [
            Try(f"curl http://{listening[first, 'HTTP']}/", f"the web server of {first}"),
            *gateway.tries(),
        ]
        if sshd is not None:
            config = folder / "ssh_config"
            lines = [f"    {key} {value}\n" for key, value in sshd.client_options]
            # No port and no address: by name, as for a whole fleet.
            proxy = gateway.command("connect", "%n:SSH", by_path=True)
            head = f"Host {' '.join(DEVICES)}\n    ProxyCommand {proxy}\n"
            config.write_text(head + "".join(lines))
            shows = f"a real sshd behind {first}, reached by its name"
            found.append(Try(f"ssh -F {shlex.quote(str(config))} {first}", shows))
        return found
