from __future__ import annotations

import io
import os
import signal
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.actors.addresses import HttpProxy, TcpAddress
from tunnelfleet.actors.config import TunnelConfig
from tunnelfleet.actors.events import (
    ListenerClosed,
    ListenerOpened,
    ServiceIdsReceived,
    TunnelEvent,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.proto import ConfigError, Endpoint, Mode
from tunnelfleet.runtime.cli.errors import EXIT_OK, CommandFailed
from tunnelfleet.runtime.cli.localproxy import run as localproxy_run
from tunnelfleet.runtime.cli.localproxy.config import Plan
from tunnelfleet.runtime.cli.localproxy.output import Reporter
from tunnelfleet.runtime.cli.localproxy.run import Localproxy
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CONFIG = TunnelConfig(
    name="localproxy",
    mode=Mode.SOURCE,
    endpoint=Endpoint.parse("ws://127.0.0.1:1"),
    access_token="token",
)
PLAN = Plan(config=CONFIG, verbosity=4, ca_path=None, verify=True, retry_count=-1, reconnect=True)


def changed(state: TunnelState, reason: str = "") -> TunnelStateChanged:
    return TunnelStateChanged("localproxy", state, reason)


CONNECTED = changed(TunnelState.CONNECTED)
BACKOFF = changed(TunnelState.BACKOFF, "no route")


class FakeRuntime:
    """Plays events when a tunnel is opened, then a signal; notes what it was told."""

    def __init__(
        self, script: Sequence[TunnelEvent], signal_number: int | None = signal.SIGTERM
    ) -> None:
        self.script = script
        self.signal_number = signal_number
        self.calls: list[str] = []
        self.opened: list[TunnelConfig] = []

    def attach(self, on_event: Callable[[TunnelEvent], None]) -> FakeRuntime:
        self.on_event = on_event
        return self

    def start(self) -> None:
        self.calls.append("start")

    def open_tunnel(self, config: TunnelConfig) -> None:
        self.calls.append("open")
        self.opened.append(config)
        for event in self.script:
            self.on_event(event)
        if self.signal_number is not None:
            os.kill(os.getpid(), self.signal_number)

    def stop(self, timeout_seconds: float = 0.0) -> None:
        assert timeout_seconds > 0
        self.calls.append("stop")
        self.on_event(ListenerClosed("localproxy", "SSH", "the end"))


def run_plan(plan: Plan, runtime: FakeRuntime) -> tuple[int, list[str]]:
    out = io.StringIO()
    reporter = Reporter(out, as_json=False, verbosity=4)
    status = Localproxy(plan, reporter, runtime.attach).run()
    return status, out.getvalue().splitlines()


def failure(plan: Plan, runtime: FakeRuntime) -> str:
    with pytest.raises(CommandFailed) as caught:
        run_plan(plan, runtime)
    assert runtime.calls == ["start", "open", "stop"]
    return str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(number: int) -> None:
    before = signal.getsignal(number)
    runtime = FakeRuntime(
        [CONNECTED, ListenerOpened("localproxy", "SSH", TcpAddress("::1", 5))], number
    )
    status, lines = run_plan(PLAN, runtime)
    assert status == EXIT_OK
    assert lines == ["connected", "SSH listening on [::1]:5", "SSH not listening: the end"]
    assert runtime.calls == ["start", "open", "stop"]
    assert runtime.opened == [CONFIG]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            [changed(TunnelState.REFUSED, "HTTP 400: token used")],
            "the tunnel was refused: HTTP 400: token used",
        ),
        ([CONNECTED, changed(TunnelState.STOPPED, "why")], "the tunnel stopped: why"),
        ([changed(TunnelState.STOPPED)], "the tunnel stopped: no reason given"),
    ],
)
def test_what_cannot_go_on_is_told(script: Sequence[TunnelEvent], message: str) -> None:
    assert failure(PLAN, FakeRuntime(script, None)) == message


def test_it_tries_for_ever() -> None:
    runtime = FakeRuntime([BACKOFF] * 50 + [CONNECTED, BACKOFF])
    assert run_plan(PLAN, runtime)[0] == EXIT_OK


def test_it_gives_up_when_the_settings_say_so() -> None:
    plan = replace(PLAN, retry_count=2)
    message = failure(plan, FakeRuntime([BACKOFF, BACKOFF], None))
    assert message.startswith("gave up after 2 failed connects: no route; ")


def test_only_consecutive_failures_count_and_a_lost_connection_is_none() -> None:
    plan = replace(PLAN, retry_count=2)
    runtime = FakeRuntime([BACKOFF, CONNECTED, BACKOFF, BACKOFF, CONNECTED, BACKOFF, BACKOFF])
    assert run_plan(plan, runtime)[0] == EXIT_OK


def test_it_does_not_reconnect_when_the_settings_say_so() -> None:
    plan = replace(PLAN, reconnect=False)
    message = failure(plan, FakeRuntime([BACKOFF, CONNECTED, BACKOFF], None))
    assert message.startswith("the connection was lost: no route")


@pytest.mark.parametrize(
    "changes", [{"is_mapped": False}, {"from_files": True}], ids=["no mapping", "of files"]
)
def test_services_are_not_announced_before_they_are_known(changes: Any) -> None:
    services = {"SSH": TcpAddress("127.0.0.1", 22)}
    config = replace(CONFIG, mode=Mode.DESTINATION, services=services)
    assert run_plan(replace(PLAN, config=config, **changes), FakeRuntime([]))[1] == [
        "SSH not listening: the end"
    ]


def test_notes_on_what_happens_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    event = changed(TunnelState.BACKOFF, "cannot reach ws://h: Connection refused; retry in 0.5 s")
    run_plan(PLAN, FakeRuntime([event, event]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: check the endpoint (-e)")


def test_warnings_notes_and_services_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    services = {"SSH": TcpAddress("127.0.0.1", 22)}
    config = replace(CONFIG, mode=Mode.DESTINATION, services=services)
    plan = replace(PLAN, config=config, warnings=("careful",), notes=("by the way",))
    assert run_plan(plan, FakeRuntime([]))[1][0] == "SSH connects to 127.0.0.1:22"
    assert capsys.readouterr().err == "warning: careful\nnote: by the way\n"


@pytest.mark.parametrize(
    ("mapped", "announced", "notes"),
    [
        (
            ["SSH"],
            ("SSH", "HTTP"),
            ["the tunnel's service 'HTTP' has no mapping and is not served"],
        ),
        (["SSH", "X"], ("SSH",), ["'X' is mapped and is no service of this tunnel"]),
        (["SSH"], ("SSH",), []),
        (["SSH"], (), []),
        ([""], ("SSH",), []),
        (None, ("SSH",), []),
    ],
)
def test_a_mapping_that_does_not_fit_the_tunnel_is_told_once(
    mapped: list[str] | None,
    announced: tuple[str, ...],
    notes: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    services = None if mapped is None else {each: TcpAddress("::1", 22) for each in mapped}
    plan = replace(PLAN, config=replace(CONFIG, services=services))
    received = ServiceIdsReceived("localproxy", announced, "c")
    run_plan(plan, FakeRuntime([received, CONNECTED, received]))
    assert capsys.readouterr().err.splitlines() == [f"note: {note}" for note in notes]


def test_what_open_tunnel_raises_still_stops_the_runtime() -> None:
    class Refusing(FakeRuntime):
        def open_tunnel(self, config: TunnelConfig) -> None:
            super().open_tunnel(config)
            raise ConfigError("no")

    runtime = Refusing([], None)
    with pytest.raises(ConfigError):
        run_plan(PLAN, runtime)
    assert runtime.calls == ["start", "open", "stop"]


class TestCertificateAuthorities:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
        calls: list[dict[str, object]] = []

        def note(**given: object) -> ssl.SSLContext:
            calls.append(given)
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        monkeypatch.setattr(localproxy_run, "make_ssl_context", note)
        return calls

    def plan(self, path: Path | None, endpoint: str = "h", verify: bool = True) -> Plan:
        config = replace(CONFIG, endpoint=Endpoint.parse(endpoint))
        return replace(
            PLAN, config=config, ca_path=None if path is None else str(path), verify=verify
        )

    def test_a_directory(self, tmp_path: Path, asked: list[dict[str, object]]) -> None:
        (tmp_path / "0a1b2c3d.0").touch()
        runtime = FakeRuntime([])
        run_plan(self.plan(tmp_path), runtime)
        assert asked == [{"ca_dir": str(tmp_path), "verify": True}]
        assert runtime.opened[0].ssl_context is not None

    def test_a_directory_in_which_openssl_would_find_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").touch()
        with pytest.raises(ConfigError, match="openssl rehash"):
            run_plan(self.plan(tmp_path), FakeRuntime([]))

    def test_they_come_on_top_of_the_system_s(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system, own = (
            ensure_certificate(tmp_path / name, "localhost").ca for name in ("system", "own")
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(system))
        runtime = FakeRuntime([])
        run_plan(self.plan(own), runtime)
        context = runtime.opened[0].ssl_context
        assert context is not None
        found = {ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)}
        assert {system.read_text(), own.read_text()} <= found

    def test_a_file(self, tmp_path: Path, asked: list[dict[str, object]]) -> None:
        run_plan(self.plan(tmp_path / "ca.pem", verify=False), FakeRuntime([]))
        assert asked == [{"ca_file": str(tmp_path / "ca.pem"), "verify": False}]

    def test_a_proxy_with_tls_has_a_certificate_too(self, asked: list[dict[str, object]]) -> None:
        plan = self.plan(None, "ws://h")
        proxy = HttpProxy("p", 443, is_tls=True)
        plan = replace(plan, config=replace(plan.config, http_proxy=proxy))
        run_plan(plan, FakeRuntime([]))
        assert asked == [{"ca_file": None, "verify": True}]

    def test_none_without_tls(self, tmp_path: Path, asked: list[dict[str, object]]) -> None:
        run_plan(self.plan(tmp_path, "ws://h"), FakeRuntime([]))
        assert asked == []
