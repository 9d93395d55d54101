"""The routes in a host's own application of aiohttp, as docs/gateway.md says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web

from tests.runtime.gateway.api.support import entry
from tests.support.fleet import Files, wanted
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.api import EventFeed, make_api

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


GUIDE = Path(__file__).parents[4] / "docs" / "gateway.md"


def serve(app: web.Application, ask: Callable[[ClientSession], Awaitable[None]]) -> None:
    """Serve an application on a loop of its own, as a host does, and ask it."""

    async def run() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        try:
            async with ClientSession(f"http://{host}:{port}") as session:
                await ask(session)
        finally:
            await runner.cleanup()

    asyncio.run(run())


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello", headers={"Server": "host"})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, wanted("a"))


def test_below_a_path_beside_the_host_s_own_pages(files: Files) -> None:
    async def ask(session: ClientSession) -> None:
        async with session.get("/hello") as answer:
            assert (await answer.text(), answer.headers["Server"]) == ("hello", "host")
        async with session.get("/fleet/v1/tunnels") as answer:
            assert [row["name"] for row in (await answer.json())["tunnels"]] == ["a"]
        async with session.post("/fleet/v1/tunnels", json=entry("b")) as answer:
            assert answer.headers["Location"] == "/fleet/v1/tunnels/b"
        async with session.get("/fleet/v1/openapi.json") as answer:
            assert (await answer.json())["servers"] == [{"url": "/fleet"}]
        async with session.get("/fleet/v1/nothing") as answer:
            assert answer.content_type == "application/problem+json"
        async with session.get("/nothing") as answer:
            assert answer.content_type == "text/plain"

    with Gateway(files) as gateway:
        app = web.Application()
        app.router.add_get("/hello", hello)
        app.add_subapp("/fleet", make_api(gateway))
        serve(app, ask)


def test_the_host_says_who_may_ask(files: Files) -> None:
    @web.middleware
    async def only_alice(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("User") != "alice":
            raise web.HTTPForbidden(text="only alice")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def ask(session: ClientSession) -> None:
        async with session.get("/fleet/v1/gateway") as answer:
            assert answer.status == 403
        async with session.get("/fleet/v1/gateway", headers={"User": "alice"}) as answer:
            assert answer.status == 200

    with Gateway(files) as gateway:
        app = web.Application(middlewares=[only_alice])
        app.add_subapp("/fleet", make_api(gateway))
        serve(app, ask)


def test_the_guide_s_program_runs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    (program,) = [each for each in programs if "make_api" in each]

    @web.middleware
    async def look_who_asks(request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        return answer

    async def ask(session: ClientSession) -> None:
        async with session.get("/fleet/v1/gateway") as answer:
            assert answer.status == 200

    monkeypatch.setattr(web, "run_app", lambda app: serve(app, ask))
    with Gateway(files) as gateway:
        exec(
            compile(program, "docs/gateway.md", "exec"),
            {"gateway": gateway, "look_who_asks": look_who_asks},
        )


def test_events_there(files: Files) -> None:
    async def ask(session: ClientSession) -> None:
        async with session.get("/v1/events?recent=1000") as answer:
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"event: tunnel_state_changed"):
                    break

    with EventFeed() as feed, Gateway(files) as gateway:
        serve(make_api(gateway, feed=feed), ask)
