"""The service as a whole: life, TLS, ports, many clients, what it tells."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from tests.support.service_client import CLIENT_TOKEN, EventLog, TunnelClient, raw_request, request
from tests.support.sockets import read_to_end
from tests.support.tracing import check_processor_seconds
from tests.support.waiting import WAIT_SECONDS, measured
from tests.support.wire import data, stream_start
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import ServiceEvent, ServiceEventKind, TunnelService
from tunnelfleet.runtime.service.tls import ensure_certificate

MANY = 200


def test_start_and_stop_may_be_repeated() -> None:
    service = TunnelService(tls=False)
    assert service.port == 0
    assert service.start() is service.start()
    port = service.port
    service.stop()
    service.stop()
    service.start()
    assert (service.port, service.endpoint) == (port, f"ws://127.0.0.1:{port}")
    service.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_stop_ends_every_connection_without_a_close() -> None:
    with TunnelService(tls=False) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        service.stop()
        source.assert_ended()
        source.close()


def test_tunnels_may_be_opened_before_the_start() -> None:
    service = TunnelService(tls=False)
    tokens = service.open_tunnel("t", ["SSH"])
    assert service.tunnels() == []
    with service:
        TunnelClient(service, Mode.SOURCE, tokens.source_token).close()
        assert [each.name for each in service.tunnels()] == ["t"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_tls_is_trusted_by_its_ca_file(name: str) -> None:
    with TunnelService() as service:
        tokens = service.open_tunnel("t", ["SSH"])
        assert service.ca_path is not None
        context = ssl.create_default_context(cafile=str(service.ca_path))
        _upgrade_over_tls(service, name, context, request(tokens))
        assert not _trusts(service, ssl.create_default_context())
        TunnelClient(service, Mode.DESTINATION, tokens.destination_token).close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_tls_over_ipv6() -> None:
    with TunnelService(host="::1") as service:
        tokens = service.open_tunnel("t", ["SSH"])
        assert service.endpoint == f"wss://[::1]:{service.port}"
        TunnelClient(service, Mode.SOURCE, tokens.source_token).close()
        _upgrade_over_tls(service, "::1", service.ssl_context(), request(tokens, "destination"))


def _upgrade_over_tls(
    service: TunnelService, name: str, context: ssl.SSLContext, wire: bytes
) -> None:
    host = "::1" if name == "::1" else "127.0.0.1"
    with (
        socket.create_connection((host, service.port), timeout=WAIT_SECONDS) as tcp,
        context.wrap_socket(tcp, server_hostname=name) as sock,
    ):
        assert sock.version() in {"TLSv1.2", "TLSv1.3"}
        sock.sendall(wire)
        assert sock.recv(12) == b"HTTP/1.1 101"


def _trusts(service: TunnelService, context: ssl.SSLContext) -> bool:
    with socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_SECONDS) as tcp:
        try:
            context.wrap_socket(tcp, server_hostname="localhost").close()
        except ssl.SSLCertVerificationError:
            return False
        return True


def test_tls_below_1_2_is_refused() -> None:
    with TunnelService() as service:
        context = service.ssl_context()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_SECONDS) as tcp,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(tcp, server_hostname="localhost")


def test_what_is_not_tls_ends_and_harms_nobody() -> None:
    with TunnelService() as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_SECONDS) as tcp:
            tcp.sendall(b"GET /tunnel HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1 101" not in read_to_end(tcp)
        tokens = service.open_tunnel("t", ["SSH"])
        TunnelClient(service, Mode.SOURCE, tokens.source_token).close()


def test_a_given_certificate_is_used(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    with TunnelService(certificate=files.certificate, private_key=files.private_key) as service:
        assert service.ca_path is None
        assert _trusts(service, ssl.create_default_context(cafile=str(files.ca)))


def test_a_made_certificate_is_kept_in_the_state_folder(tmp_path: Path) -> None:
    with TunnelService(state_dir=tmp_path) as service:
        first = (tmp_path / "ca.pem").read_bytes()
        assert service.ca_path == tmp_path / "ca.pem"
    with TunnelService(state_dir=tmp_path):
        assert (tmp_path / "ca.pem").read_bytes() == first


def test_a_made_certificate_without_a_state_folder_goes_with_the_service() -> None:
    with TunnelService() as service:
        ca = service.ca_path
        assert ca is not None
        service.restart()
        assert ca.is_file()
    assert not ca.parent.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "relay.example"])
def test_plain_ws_is_refused_off_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        TunnelService(host=host, tls=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_plain_ws_is_for_loopback(host: str) -> None:
    TunnelService(host=host, tls=False)


def test_unusable_settings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="together"):
        TunnelService(certificate=tmp_path / "cert.pem")
    with pytest.raises(ConfigError, match="above 0"):
        TunnelService(bandwidth_bytes_per_second=0)
    missing = TunnelService(certificate=tmp_path / "a", private_key=tmp_path / "b")
    with pytest.raises(ConfigError, match="certificate"):
        missing.start()


def test_an_address_of_another_machine_is_an_error_that_says_so() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737).
    with pytest.raises(ConfigError, match="give an address of this machine"):
        TunnelService(host="192.0.2.1").start()


def test_a_taken_port_is_an_error() -> None:
    with TunnelService(tls=False) as first:
        second = TunnelService(tls=False, port=first.port)
        with pytest.raises(ConfigError, match=str(first.port)):
            second.start()


def test_a_start_without_descriptors_is_an_error_and_leaves_nothing() -> None:
    service = TunnelService(tls=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(ConfigError, match="raise the limit of open files"):
            service.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with service:
        assert service.is_alive().result(WAIT_SECONDS)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_restart_keeps_port_tunnels_and_tokens(tls: bool) -> None:
    with TunnelService(tls=tls) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        spent = service.open_tunnel("spent", ["SSH"])
        endpoint, context = service.endpoint, service.ca_path
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
        TunnelClient(service, Mode.SOURCE, spent.source_token).close()
        service.restart()
        source.assert_ended()
        source.close()
        assert (service.endpoint, service.ca_path) == (endpoint, context)
        TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()
        if not tls:
            assert raw_request(service, request(spent))[0] == 403
            wrong = [f"access-token: {tokens.source_token}", f"client-token: {'z' * 32}"]
            assert raw_request(service, request(tokens, headers=wrong))[0] == 403


def test_kill_resets_connections_and_start_brings_the_port_back() -> None:
    service = TunnelService(tls=False).start()
    tokens = service.open_tunnel("t", ["SSH"])
    source = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
    service.kill()
    with pytest.raises(ConnectionResetError):
        source.ws.sock.recv(1)
    source.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port))
    service.start()
    TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()
    service.stop()


def test_close_tunnel_disconnects_and_voids(service: TunnelService, events: EventLog) -> None:
    tokens = service.open_tunnel("t", ["SSH"])
    source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
    service.close_tunnel("t")
    source.assert_ended()
    source.close()
    assert raw_request(service, request(tokens))[0] == 403
    events.wait(ServiceEventKind.TUNNEL_CLOSED)
    assert service.open_tunnel("t").source_token != tokens.source_token


def test_tokens_can_be_looked_up_again(service: TunnelService) -> None:
    tokens = service.open_tunnel("t", ["SSH"])
    assert service.tokens("t") == tokens
    assert service.tokens("t").source_token == tokens.source_token
    with pytest.raises(ConfigError):
        service.tokens("nobody")


def test_a_service_wide_bandwidth_limits_every_tunnel() -> None:
    with TunnelService(tls=False, bandwidth_bytes_per_second=100_000) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        destination = TunnelClient(service, Mode.DESTINATION, tokens.destination_token)

        def take() -> float:
            begin = time.monotonic()
            source.send(*(data(bytes(10_000)) for _ in range(5)))
            for _ in range(5):
                destination.message()
            return time.monotonic() - begin

        assert 0.35 < measured(take, lambda seconds: seconds < 1.0) < 1.0
        source.close()
        destination.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_200_connections_come_quickly(tls: bool) -> None:
    before = threading.active_count()
    with TunnelService(tls=tls) as service:
        opened = [service.open_tunnel(f"t{n}", ["SSH"]) for n in range(MANY // 2)]
        begin = time.process_time()
        clients = [TunnelClient(service, Mode.SOURCE, each.source_token) for each in opened]
        clients += [
            TunnelClient(service, Mode.DESTINATION, each.destination_token) for each in opened
        ]
        took = time.process_time() - begin
        assert threading.active_count() == before + 1
        for source, destination in zip(clients, clients[MANY // 2 :], strict=False):
            source.send(stream_start())
            assert destination.message() == stream_start()
        assert all(each.destination_connected for each in service.tunnels())
        for client in clients:
            client.close()
    check_processor_seconds(took, 20.0)


def test_no_event_holds_a_token(events: EventLog) -> None:
    secrets = []
    with TunnelService(tls=False, on_event=events) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        secrets += [tokens.source_token, tokens.destination_token, CLIENT_TOKEN]
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
        raw_request(service, request(tokens))
        raw_request(service, request(tokens, headers=[f"access-token: {CLIENT_TOKEN * 2}"]))
        raw_request(service, b"GET /" + tokens.source_token.encode() + b" HTTP/1.1\r\n\r\n")
        source.send(stream_start(stream=0))
        source.assert_closed_empty()
        source.close()
        secrets.append(service.rotate("t").source_token)
        service.session_reset("t")
    shown = "\n".join(each.to_json() + repr(each) for each in events.all())
    assert len(events.all()) >= 8
    assert not [secret for secret in secrets if secret in shown]


def test_on_event_may_call_the_service() -> None:
    seen = threading.Event()

    def on_event(event: ServiceEvent) -> None:
        if event.kind is ServiceEventKind.CLIENT_CONNECTED:
            service.session_reset(event.tunnel)
            seen.set()

    with TunnelService(tls=False, on_event=on_event) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        assert seen.wait(10)
        assert source.message().stream_id == 0
        source.close()


def test_on_event_may_fail_but_not_stop_the_service(caplog: pytest.LogCaptureFixture) -> None:
    def on_event(event: ServiceEvent) -> None:
        if event.kind is ServiceEventKind.TUNNEL_OPENED:
            raise RuntimeError("a bug of the user")
        with pytest.raises(RuntimeError, match="another thread"):
            service.stop()

    with TunnelService(tls=False, on_event=on_event) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        source.assert_quiet()
        source.close()
    assert "a bug of the user" in caplog.text


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_descriptor_is_given_back_for_every_connection() -> None:
    with TunnelService(tls=False) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        before = _open_descriptors()
        for _ in range(20):
            TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()
            raw_request(service, b"nonsense\r\n\r\n")
        service.drop("t")
        assert _open_descriptors() <= before + 2
