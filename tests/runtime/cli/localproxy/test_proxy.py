"""Which proxy is taken: as curl takes it, and compared with curl itself."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import require_program
from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.proto import ConfigError, Endpoint
from tunnelfleet.runtime.cli.localproxy.settings import choose_proxy, is_exempt

if TYPE_CHECKING:
    from collections.abc import Iterator

AWS = Endpoint.for_region("eu-west-1")


@pytest.mark.parametrize(
    ("variable", "proxy", "notes"),
    [
        ("http://p.example:8080", HttpProxy("p.example", 8080), 0),
        ("http://u:pw@p.example:8080/", HttpProxy("p.example", 8080, "u", "pw"), 0),
        ("p.example:8080", HttpProxy("p.example", 8080), 0),
        ("u:pw@p.example:8080", HttpProxy("p.example", 8080, "u", "pw"), 0),
        ("http://p.example", HttpProxy("p.example", 3128), 1),
        ("http://p.example/", HttpProxy("p.example", 3128), 1),
        ("p.example", HttpProxy("p.example", 3128), 1),
        ("[::1]", HttpProxy("::1", 3128), 1),
        ("http://p.example:", HttpProxy("p.example", 3128), 1),
        ("https://p.example:8443", HttpProxy("p.example", 8443, is_tls=True), 0),
        ("HTTPS://u:p%40ss@p.example", HttpProxy("p.example", 443, "u", "p@ss", is_tls=True), 1),
    ],
)
def test_the_proxy(variable: str, proxy: HttpProxy, notes: int) -> None:
    choice = choose_proxy(AWS, {"HTTPS_PROXY": variable})
    assert choice.proxy == proxy
    assert len(choice.notes) == notes
    assert choice.warnings == ()


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, None),
        ({"https_proxy": "a:1", "HTTPS_PROXY": "b:1", "all_proxy": "c:1"}, "a"),
        ({"HTTPS_PROXY": "b:1", "all_proxy": "c:1", "ALL_PROXY": "d:1"}, "b"),
        ({"all_proxy": "c:1", "ALL_PROXY": "d:1"}, "c"),
        ({"ALL_PROXY": "d:1"}, "d"),
        ({"https_proxy": "", "HTTPS_PROXY": "b:1"}, "b"),
        ({"http_proxy": "e:1", "HTTP_PROXY": "e:1"}, None),
    ],
)
def test_the_variables_in_their_order(environ: dict[str, str], host: str | None) -> None:
    proxy = choose_proxy(AWS, environ).proxy
    assert (None if proxy is None else proxy.host) == host


def test_lower_case_goes_first_in_no_proxy_too() -> None:
    environ = {"HTTPS_PROXY": "p:1", "NO_PROXY": "*", "no_proxy": "elsewhere"}
    assert choose_proxy(AWS, environ).proxy is not None
    del environ["no_proxy"]
    choice = choose_proxy(AWS, environ)
    assert choice.proxy is None
    (note,) = choice.notes
    assert note.startswith(f"environment variable HTTPS_PROXY is not used for {AWS.host}: ")
    assert note.endswith("environment variable NO_PROXY")


@pytest.mark.parametrize(
    "variable",
    ["ftp://u:hunter2@h:1", "socks5h://u:hunter2@h:1", "http://u:hunter2@h:x", "http://", "://"],
)
def test_what_is_no_http_proxy_is_refused_without_its_credentials(variable: str) -> None:
    with pytest.raises(ConfigError, match=r"^environment variable HTTPS_PROXY: ") as caught:
        choose_proxy(AWS, {"HTTPS_PROXY": variable})
    assert "hunter2" not in str(caught.value)


def test_a_socks_proxy_for_all_programs_is_told_and_not_used() -> None:
    choice = choose_proxy(AWS, {"ALL_PROXY": "socks5://u:hunter2@h:1"})
    assert choice.proxy is None
    assert len(choice.warnings) == 1
    assert choice.warnings[0].startswith("environment variable ALL_PROXY is not used")
    assert "hunter2" not in choice.warnings[0]


# host, NO_PROXY, whether the host is exempt
AS_CURL = [
    ("t.example.com", "t.example.com", True),
    ("t.example.com", "localhost, T.example.COM", True),
    ("T.Example.com", "t.example.com", True),
    ("t.example.com", "example.com", True),
    ("t.example.com", ".example.com", True),
    ("example.com", ".example.com", True),
    ("t.example.com", "example.com.", True),
    ("t.example.com.", "example.com", True),
    ("t.example.com", "*", True),
    ("t.example.com", "example", False),
    ("xt.example.com", "t.example.com", False),
    ("t.example.com", "x.t.example.com", False),
    ("nonexample.com", "example.com", False),
    ("t.example.com", "*.example.com", False),
    ("t.example.com", ",,", False),
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "127.0.0.0/8", True),
    ("127.200.3.4", "127.0.0.0/8", True),
    ("128.0.0.1", "127.0.0.0/8", False),
    ("192.168.5.9", "10.0.0.0/8,192.168.5.0/24", True),
    ("192.168.6.9", "192.168.5.0/24", False),
    ("192.168.5.9", "192.168.5.9/32", True),
    ("127.0.0.1", "0.0.1", False),
    ("127.0.0.1", ".0.0.1", False),
    ("127.0.0.1", "127.0.0.0/33", False),
    ("127.0.0.1", "localhost", False),
    ("::1", "::1", True),
    ("2001:db8::1", "fe80::/10", False),
    ("::1", "127.0.0.1", False),
]

# curl 7.88 does not match IPv6 networks; later ones do.
BEYOND_CURL = [
    ("::1", "0:0::1", True),
    ("fe80::1", "fe80::/10", True),
    ("t.example.com", "localhost t.example.com", True),
    ("t.example.com", "localhost,*", True),
    ("t.example.com", "t.example.com:443", True),
    ("t.example.com", "t.example.com:8443", False),
    ("t.example.com", f"t.example.com:{'4' * 5_000}", False),
    ("127.0.0.1", "127.0.0.1:443", True),
    ("::1", "[::1]", True),
    ("::1", "[::1]:443", True),
    ("::1", "[::1]:8443", False),
    ("10.1.2.3", "0.0.0.0/0", True),
]


@pytest.mark.parametrize(("host", "no_proxy", "exempt"), AS_CURL + BEYOND_CURL)
def test_no_proxy(host: str, no_proxy: str, exempt: bool) -> None:
    assert is_exempt(host, 443, no_proxy) is exempt


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.e2e
@pytest.mark.programs("curl")
@pytest.mark.parametrize(("host", "no_proxy", "exempt"), AS_CURL)
def test_curl_says_the_same(host: str, no_proxy: str, exempt: bool, closed_port: int) -> None:
    name = f"[{host}]" if ":" in host else host
    # An exempt host is sent to the closed port as well, whatever its name.
    target = ["--connect-to", f"{name}:443:127.0.0.1:{closed_port}", f"https://{name}/"]
    environ = {key: text for key, text in os.environ.items() if "proxy" not in key.lower()}
    environ |= {"HTTPS_PROXY": f"http://127.0.0.1:{closed_port}", "NO_PROXY": no_proxy}
    curl = [require_program("curl"), "--verbose", "--silent", "--max-time", "10", *target]
    done = subprocess.run(curl, env=environ, capture_output=True, text=True, check=False)
    uses_proxy = "Uses proxy env variable HTTPS_PROXY" in done.stderr
    assert uses_proxy is not exempt, done.stderr
