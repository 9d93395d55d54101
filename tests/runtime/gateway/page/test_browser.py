"""The status page in a real browser: a fleet of 2,000 tunnels, clicked through."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support.fleet import Fleet, wanted
from tests.support.programs import require_program
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import Backoff, Limits
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.gateway import Reload
from tunnelfleet.runtime.gateway.page import StatusPage, look_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.programs("chromium"), pytest.mark.timeout(300)]

TUNNELS = 2_000
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MILLISECONDS = WAIT_SECONDS * 1_000
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=require_program("chromium"), args=list(FLAGS)
        )
        yield found
        found.close()


class Watched:
    """A page, and what it complained about."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._context = browser.new_context(**context)
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(MILLISECONDS)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(url)

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def url(fleet: Fleet) -> Iterator[str]:
    """The page of a gateway with a large fleet: most wait for their turn, one is connected."""
    slow = Limits(backoff=Backoff(min_seconds=600, max_seconds=600))
    fleet.files.tunnels = {
        each.name: each
        for each in (
            fleet.tunnel("press-1", labels={"site": "lyon"}),
            wanted("a" * 60, labels={"note": HOSTILE}, limits=slow),
            *(wanted(f"idle-{number:04}", limits=slow) for number in range(TUNNELS - 2)),
        )
    }
    gateway = fleet.start()
    fleet.wait_state("press-1", "connected")
    page = StatusPage(lambda: look_at(gateway))
    options = AdminOptions(port=0)
    with AdminServer(gateway.runtime, options, more_pages=page.pages) as server:
        yield f"{server.url}/"


def test_the_page_shows_a_fleet_live(browser: Browser, fleet: Fleet, url: str) -> None:
    watched = Watched(browser, url, viewport={"width": 1280, "height": 800})
    page = watched.page
    rows = page.locator("#tunnels tbody tr")
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("h1")).to_have_text("gw")
    expect(rows).to_have_count(TUNNELS)

    # Only those in a state; and all of them again.
    page.get_by_role("button", name="connected").click()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("press-1")
    expect(page.locator("#count")).to_have_text(f"1 of {TUNNELS}")
    page.get_by_role("button", name="connected").click()
    expect(rows).to_have_count(TUNNELS)

    # Sorted by a column, one way and the other.
    page.locator("#tunnels th[data-key=name] button").click()
    expect(page.locator("#tunnels th[data-key=name]")).to_have_attribute("aria-sort", "ascending")
    expect(rows.nth(1)).to_contain_text("idle-0000")
    page.locator("#tunnels th[data-key=name] button").click()
    expect(rows.first).to_contain_text("press-1")

    # Found by name, and by label; what comes from outside is text, whatever it looks like.
    page.get_by_label("Search").fill("site=lyon")
    expect(rows).to_have_count(1)
    page.get_by_label("Search").fill("onerror")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(HOSTILE)
    assert page.locator("#tunnels img").count() == 0
    page.get_by_label("Search").fill("nothing is called so")
    expect(page.locator("#tunnels .nothing")).to_have_text("No tunnel is like that.")
    page.get_by_label("Search").fill("")

    # What changes is there without a click: a tunnel comes, another one goes, traffic is counted.
    fleet.files.tunnels["new-1"] = wanted("new-1")
    del fleet.files.tunnels["idle-0000"]
    fleet.gateway.ask(Reload(), WAIT_SECONDS)
    page.get_by_label("Search").fill("new-1")
    expect(rows).to_have_count(1)
    page.get_by_label("Search").fill("idle-0000")
    expect(rows).to_have_count(0)
    page.get_by_label("Search").fill("press-1")
    host, _, port = fleet.row("press-1").services["SSH"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as application:
        application.sendall(b"x" * 5_000)
        assert application.recv(1)
        expect(rows.first).to_contain_text("5.0 kB")
        page.get_by_role("tab", name="Connections").click()
        expect(page.get_by_role("tab", name="Connections")).to_have_text("Connections (1)")
        shown = page.locator("#connections tbody tr")
        expect(shown).to_have_count(1)
        peer = "{}:{}".format(*application.getsockname())
        for text in ("press-1", "SSH", peer, "5.0 kB"):
            expect(shown.first).to_contain_text(text)
    expect(page.get_by_role("tab", name="Connections")).to_have_text("Connections (0)")

    assert watched.complaints == []
    assert {each.split("/")[2] for each in watched.requested} == {url.split("/")[2]}
    watched.close()


def test_tabs_are_reached_by_keys_and_the_other_list_is_shown(browser: Browser, url: str) -> None:
    watched = Watched(browser, url)
    page = watched.page
    expect(page.locator("#live")).to_have_text("live")
    page.get_by_role("tab", name="Tunnels").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Connections")).to_be_focused()
    expect(page.locator("#connections")).to_be_visible()
    expect(page.locator("#tunnels")).to_be_hidden()
    assert watched.complaints == []
    watched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_colours_of_the_system(
    browser: Browser, url: str, scheme: str
) -> None:
    watched = Watched(
        browser, url, viewport={"width": 390, "height": 844}, has_touch=True, color_scheme=scheme
    )
    page = watched.page
    expect(page.locator("#tunnels tbody tr")).to_have_count(TUNNELS)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator("thead").first).to_be_hidden()
    page.get_by_label("Sort by").select_option("name")
    expect(page.locator("#tunnels tbody tr").nth(1)).to_contain_text("idle-0000")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground[4:-1].split(","))
    assert (brightness > 600) == (scheme == "light")
    assert watched.complaints == []
    watched.close()


def test_a_page_says_when_it_is_not_live_and_comes_back(browser: Browser, fleet: Fleet) -> None:
    fleet.files.tunnels = {"press-1": wanted("press-1")}
    gateway = fleet.start()
    page_of_gateway = StatusPage(lambda: look_at(gateway))

    def serve(port: int) -> AdminServer:
        options = AdminOptions(port=port)
        return AdminServer(gateway.runtime, options, more_pages=page_of_gateway.pages)

    with serve(0) as server:
        port = server.port
        watched = Watched(browser, f"{server.url}/")
        expect(watched.page.locator("#live")).to_have_text("live")
    expect(watched.page.locator("#live")).to_have_attribute("data-state", "lost")
    expect(watched.page.locator("#live")).to_contain_text("not live")
    page_of_gateway = StatusPage(lambda: look_at(gateway))
    with serve(port):
        expect(watched.page.locator("#live")).to_have_text("live")
        expect(watched.page.locator("#tunnels tbody tr")).to_have_count(1)
    watched.close()
