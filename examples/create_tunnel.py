"""Create a client: builder, build, start.

python examples/create_tunnel.py
"""

from __future__ import annotations

from local_tunnel import a_tunnel

from tunnelfleet.runtime import ConfigError, SecureTunnelBuilder, TunnelError


def main() -> None:
    """Build a client, start it, stop it."""
    with a_tunnel() as given:
        builder = SecureTunnelBuilder(given.destination_token, "destination", given.endpoint)
        if given.root_ca:
            builder.with_root_ca(given.root_ca)
        try:
            tunnel = builder.build()
        except ConfigError as error:
            raise SystemExit(f"Secure tunnel creation failed: {error}") from None

        # What the builder is told from here on does not change the tunnel.
        builder.with_name("another one")

        try:
            service_ids = tunnel.start().result(10)
        except TunnelError as error:
            raise SystemExit(f"Failed to start the secure tunnel: {error}") from None
        print(f"{tunnel} has the services {', '.join(service_ids)}")
        tunnel.stop().result(10)


if __name__ == "__main__":
    main()
