"""Start, stop, and start again with the same tokens.

python examples/start_and_stop.py
"""

from __future__ import annotations

import uuid

from local_tunnel import a_tunnel

from tunnelfleet.runtime import SecureTunnelBuilder


def main() -> None:
    """Start and stop twice."""
    with a_tunnel() as given:
        # Unique among the account's open tunnels; without it one is generated.
        client_token = str(uuid.uuid4())
        builder = SecureTunnelBuilder(given.destination_token, "destination", given.endpoint)
        builder.with_client_token(client_token)
        if given.root_ca:
            builder.with_root_ca(given.root_ca)
        tunnel = builder.build()
        for attempt in (1, 2):
            tunnel.start()
            services = tunnel.wait_connected(10)
            print(f"start {attempt}: connected, services {services}")
            tunnel.stop().result(10)
            print(f"stop {attempt}: {tunnel}")


if __name__ == "__main__":
    main()
