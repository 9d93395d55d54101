"""Every place that makes a TLS context: what it speaks, and whom it believes (docs/security.md)."""

from __future__ import annotations

import ast
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support.handshakes import make_old, shake_hands
from tests.support.wheel import FOLDERS
from tunnelfleet.runtime import Endpoint, make_ssl_context
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.admin.http_thread import HttpServer
from tunnelfleet.runtime.cli.localproxy.command import make_plan
from tunnelfleet.runtime.cli.localproxy.run import Localproxy
from tunnelfleet.runtime.client import options as client_options
from tunnelfleet.runtime.gateway.api.address import GatewayAddress
from tunnelfleet.runtime.gateway.api.client import GatewayClient
from tunnelfleet.runtime.gateway.config import Authorities
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings
from tunnelfleet.runtime.gateway.config.things import BrokerAddress
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.management.notify import Broker, MqttNotifier
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.service.tls import CertificateFiles

ROOT = Path(__file__).parents[2]
NAME = "127.0.0.1"
MAKERS = {
    "SSLContext",
    "FollowingContext",
    "create_default_context",
    "tls_set",
    "_create_unverified_context",
}
PLACES = {
    "runtime/tls.py": 1,
    "runtime/admin/server.py": 1,
    "runtime/service/tls.py": 1,
    "runtime/admin/http_thread.py": 1,
    "runtime/gateway/config/fleet_tls.py": 1,
    "actors/net/socket_io.py": 1,
}
"""All contexts of clients come from the first; each of the others serves. Gateways of
a fleet are both to each other, with an authority of their own. The last one connects nobody."""

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")


def makers(path: Path) -> int:
    """How many calls in a file make a context."""
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = [
        each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in calls
    ]
    return sum(name in MAKERS for name in names)


def test_no_other_place_makes_a_context() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): count
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if (count := makers(path))
    }
    assert found == PLACES, "take make_ssl_context, or add the new place to the tables below"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return ensure_certificate(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """Of another authority."""
    return ensure_certificate(tmp_path_factory.mktemp("other"), NAME)


# -- clients


def of_a_broker(files: CertificateFiles) -> ssl.SSLContext | None:
    address = BrokerAddress(NAME, 8883, is_tls=True)
    return BrokerSettings(address, "gw", ca=files.ca).make_ssl_context()


def of_the_notifier(files: CertificateFiles) -> ssl.SSLContext | None:
    broker = Broker(NAME, 8883, True, None, None, files.ca, None, None)
    return cast("ssl.SSLContext", MqttNotifier(broker, "us-east-1")._client._ssl_context)


def of_localproxy(files: CertificateFiles) -> ssl.SSLContext | None:
    flags: dict[str, Any] = {
        "access-token": "t" * 20,
        "proxy-endpoint": f"{NAME}:443",
        "source-listen-port": "SSH=0",
        "capath": str(files.ca),
    }
    reporter: Any = None
    return Localproxy(make_plan(flags, None, {}), reporter)._ssl_context()


def of_the_client_api(files: CertificateFiles) -> ssl.SSLContext | None:
    return client_options._ssl_context({"root_ca": str(files.ca)})


def of_the_commands(files: CertificateFiles) -> ssl.SSLContext | None:
    """They trust the authorities of the system, which a variable names here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(files.ca))
        client = GatewayClient(GatewayAddress.parse("https://localhost:1"))
        return cast("ssl.SSLContext", cast("Any", client._connect())._context)


def of_the_service(files: CertificateFiles) -> ssl.SSLContext | None:
    """What the embedded service gives to its clients, with a certificate that it was given."""
    with TunnelService(
        tls=True, certificate=files.certificate, private_key=files.private_key
    ) as service:
        return service.ssl_context()


CLIENTS: dict[str, Callable[[CertificateFiles], ssl.SSLContext | None]] = {
    "make_ssl_context": lambda files: make_ssl_context(files.ca),
    "a folder of authorities": lambda files: make_ssl_context(ca_dir=files.ca.parent),
    "ca of a tunnel in a file": lambda files: Authorities().get(files.ca)[0],
    "a broker of [[notify]]": of_a_broker,
    "--mqtt of the service": of_the_notifier,
    "-c of localproxy": of_localproxy,
    "root_ca of SecureTunnel": of_the_client_api,
    "--gateway https://": of_the_commands,
    "TunnelService.ssl_context": of_the_service,
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, files: CertificateFiles) -> ssl.SSLContext:
    context = CLIENTS[request.param](files)
    assert context is not None
    return context


class TestClients:
    def test_the_right_server_is_spoken_to(
        self, client: ssl.SSLContext, files: CertificateFiles
    ) -> None:
        assert shake_hands(files, client, NAME) == "TLSv1.3"

    def test_another_name_is_refused(self, client: ssl.SSLContext, files: CertificateFiles) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for|mismatch"):
            shake_hands(files, client, "other.example")

    def test_another_authority_is_refused(
        self, client: ssl.SSLContext, strangers: CertificateFiles
    ) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            shake_hands(strangers, client, NAME)

    def test_a_server_of_tls_1_1_is_refused(
        self, client: ssl.SSLContext, files: CertificateFiles
    ) -> None:
        assert client.minimum_version >= ssl.TLSVersion.TLSv1_2
        old = make_old(server_context(files.own()))
        with pytest.raises(ssl.SSLError, match=r"(?i)version|alert"):
            shake_hands(files, client, NAME, old)


# -- servers


def of_the_pages(files: CertificateFiles) -> ssl.SSLContext | None:
    options = AdminOptions(certificate=files.certificate, private_key=files.private_key)
    runtime: Any = None
    return AdminServer(runtime, options, registry=cast("Any", object()))._ssl_context()


def of_the_apis(files: CertificateFiles) -> ssl.SSLContext | None:
    """Of the management API, and of what watches the service."""
    present = server_context(files.own())
    nobody: Any = None
    return HttpServer(
        NAME, 0, nobody, too_large=nobody, name="x", what="x", tls=lambda: present
    )._context()


SERVERS: dict[str, Callable[[CertificateFiles], ssl.SSLContext | None]] = {
    "the embedded service": lambda files: server_context(files.own()),
    "its APIs": of_the_apis,
    "the pages of a runtime": of_the_pages,
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, files: CertificateFiles) -> ssl.SSLContext:
    context = SERVERS[request.param](files)
    assert context is not None
    return context


class TestServers:
    def test_a_client_of_today_is_served(
        self, server: ssl.SSLContext, files: CertificateFiles
    ) -> None:
        assert shake_hands(files, make_ssl_context(files.ca), NAME, server) == "TLSv1.3"

    def test_a_client_of_tls_1_1_is_refused(
        self, server: ssl.SSLContext, files: CertificateFiles
    ) -> None:
        assert server.minimum_version >= ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shake_hands(files, make_old(make_ssl_context(files.ca)), NAME, server)


def test_what_is_refused_would_speak_with_its_like(files: CertificateFiles) -> None:
    """Else nothing of the above says anything."""
    old = make_old(server_context(files.own()))
    assert shake_hands(files, make_old(make_ssl_context(files.ca)), NAME, old) == "TLSv1.1"


def test_without_a_word_nothing_is_unverified() -> None:
    """Only `verify=False`, which people write, gives up the verification.

    Gateways of a fleet check each other's names themselves: see `names_in`.
    """
    text = "\n".join(
        path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    )
    assert text.count("CERT_NONE") == 1
    assert text.count("check_hostname = False") == 2
    assert Endpoint.parse("wss://h").is_tls
