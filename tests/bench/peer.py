"""One end of a tunnel in a process of its own, for benchmarks: its configuration comes on stdin."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
    parse_address,
)
from tunnelfleet.runtime.memory import settle_malloc

READY_SECONDS = 20.0


def main() -> None:
    # As `tunnelfleet up` does.
    settle_malloc()
    given = json.loads(sys.stdin.readline())
    mode = Mode(given["mode"])
    address = TcpAddress("127.0.0.1", 0) if mode is Mode.SOURCE else parse_address(given["target"])
    config = TunnelConfig(
        name=mode,
        mode=mode,
        endpoint=Endpoint.parse(given["endpoint"]),
        access_token=given["token"],
        services={"BENCH": address},
    )
    context = make_ssl_context(Path(given["ca"])) if given["ca"] else None
    with TunnelRuntime(ssl_context=context) as runtime:
        tunnel = runtime.open_tunnel(config)
        tunnel.wait_for(TunnelState.CONNECTED, READY_SECONDS)
        listening = ""
        if mode is Mode.SOURCE:
            listening = str(tunnel.wait_listening("BENCH", READY_SECONDS))
        print(json.dumps({"listening": listening}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
