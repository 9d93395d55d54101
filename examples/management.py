"""AWS's API on this machine: open a tunnel with boto3, connect both ends, rotate, close.

    python examples/management.py

It starts the embedded service with its management API. Against AWS itself, or a service that runs
already (`tunnelfleet service --management 127.0.0.1:8444`), nothing but `endpoint_url` and the
endpoint of the tunnels differs.
"""

from __future__ import annotations

import socket
import threading

import boto3

from tunnelfleet.runtime import MessageReceived, SecureTunnel, TcpAddress, TunnelRuntime
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.management import ManagementServer

WAIT_SECONDS = 10.0


def echo(tunnel: SecureTunnel, event: MessageReceived) -> None:
    """Send every message back on its connection."""
    tunnel.send_message(event.message)


def main() -> None:
    """Do what an operator does with a device."""
    with TunnelService(tls=False) as service, ManagementServer(service) as management:
        aws = boto3.client(
            "iotsecuretunneling",
            endpoint_url=management.url,
            region_name="us-east-1",
            # On this machine anybody may call; boto3 wants to sign nevertheless.
            aws_access_key_id="any",
            aws_secret_access_key="any",  # noqa: S106
        )
        opened = aws.open_tunnel(
            description="to look after press-4",
            destinationConfig={"thingName": "press-4", "services": ["ECHO"]},
            timeoutConfig={"maxLifetimeTimeoutMinutes": 60},
            tags=[{"key": "site", "value": "lyon"}],
        )
        tunnel_id = opened["tunnelId"]
        print(f"opened {opened['tunnelArn']}")

        connected = threading.Semaphore(0)  # one for each time that the operator is connected
        with TunnelRuntime() as runtime:
            device = SecureTunnel(
                opened["destinationAccessToken"],
                "destination",
                service.endpoint,
                runtime=runtime,
                on_message_received=echo,
            )
            operator = SecureTunnel(
                opened["sourceAccessToken"],
                "source",
                service.endpoint,
                runtime=runtime,
                name="operator",
                services={"ECHO": "127.0.0.1:0"},
                on_connection_success=lambda _tunnel, _event: connected.release(),
            )
            with device, operator:
                device.wait_connected(WAIT_SECONDS)
                connected.acquire(timeout=WAIT_SECONDS)
                address = runtime.tunnel("operator").wait_listening("ECHO", WAIT_SECONDS)
                assert isinstance(address, TcpAddress)
                with socket.create_connection((address.host, address.port)) as visitor:
                    visitor.sendall(b"hello press-4")
                    print(f"through the tunnel: {visitor.recv(1_000).decode()}")
                found = aws.describe_tunnel(tunnelId=tunnel_id)["tunnel"]
                print(f"source is {found['sourceConnectionState']['status']}")

                # Whoever has the source's token loses it, and the other side stays.
                rotated = aws.rotate_tunnel_access_token(tunnelId=tunnel_id, clientMode="SOURCE")
                operator.replace_token(rotated["sourceAccessToken"])
                if connected.acquire(timeout=WAIT_SECONDS):
                    print("connected with the new token")

        aws.close_tunnel(tunnelId=tunnel_id)
        for summary in aws.list_tunnels(thingName="press-4")["tunnelSummaries"]:
            print(f"{summary['description']}: {summary['status']}")
        aws.close()


if __name__ == "__main__":
    main()
