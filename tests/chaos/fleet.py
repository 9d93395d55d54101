"""One schedule in one process: a service, a runtime, proxies between all, applications, a verdict.

Owns what a schedule needs, from its making to its end, and what is looked at when it is quiet
again: that every tunnel is connected and carries, and that nothing is left over. What is wrong
comes back as text; nothing is raised for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final

from tests.support.witness import actors
from tunnelfleet.runtime import (
    Mode,
    TunnelError,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.service import TunnelService

from .faults import Faults
from .proxy import Proxy
from .results import QUIET_SECONDS, Certificate, LogWatch, Result, Standing
from .schedule import SPAN_MS, Conversation, End, Schedule
from .talk import HEADER_BYTES, Application, Circumstances, Ending, eventually, verdict
from .tunnels import PlantedTunnel

POLL_SECONDS: Final = 0.005
PROBE_NUMBERS: Final = 2_000
"""From here on the conversations of the end, which must be whole, are numbered."""
PROBES: Final = 5
"""How often they may be tried: who has lost a link hears of it a moment later."""
STARVED_PROBES: Final = 50
"""How often more, where a machine is too busy for the pongs of a tunnel that is made impatient."""
PROBE_PAUSE_SECONDS: Final = 0.3
"""Longer after each, while an actor that was killed waits to be started again."""

OF_A_RUNTIME: Final = frozenset({"RuntimeSupervisor", "ConnectGovernor", "EventRelay"})
"""The actors that a runtime without tunnels has."""


REFUSED_CORRUPTED: Final = "a request corrupted where there is no TLS, and refused"


class Fleet:
    """Carries out one schedule.

    Args:
        schedule: what to do.
        certificate: for the schedules with TLS.
        is_first: what it leaves over may be what a process loads once.
    """

    def __init__(
        self, schedule: Schedule, certificate: Certificate, *, is_first: bool = False
    ) -> None:
        self.schedule = schedule
        self._is_first = is_first
        self.result = Result(schedule.seed)
        self.log = LogWatch()
        tls = schedule.tls
        self.service = TunnelService(
            tls=tls,
            certificate=certificate.certificate if tls else None,
            private_key=certificate.private_key if tls else None,
        )
        self.runtime = TunnelRuntime(
            dispatchers=schedule.dispatchers,
            connect_rate_per_second=1_000.0,
            ssl_context=certificate.context if tls else None,
        )
        self.tunnels: list[PlantedTunnel] = []
        self._faults = Faults(self)
        self._listeners: list[socket.socket] = []
        self._serving: set[asyncio.Task[Any]] = set()
        self._talks = {each.number: each for each in schedule.conversations}
        self._accounts: dict[int, Ending] = {}
        """The server's account of each conversation."""
        self._clients: dict[int, Ending] = {}
        self._lock = threading.Lock()

    async def run(self) -> Result:
        """Do all of it; return what came of it."""
        started = time.monotonic()
        logger = logging.getLogger("tunnelfleet")
        before = logger.propagate
        logger.propagate = False
        logger.addHandler(self.log)
        try:
            await self._run()
        finally:
            logger.removeHandler(self.log)
            logger.propagate = before
        self.result.violations += [f"unexpected error: {text}" for text in self.log.unexpected]
        self.result.survived = self._faults.survived
        self.result.crashed = self._faults.crashed
        self.result.seconds = time.monotonic() - started
        return self.result

    async def _run(self) -> None:
        before = Standing.now()
        self.service.start()
        self.runtime.start()
        try:
            for number, plan in enumerate(self.schedule.tunnels):
                tunnel = PlantedTunnel(self, number, plan)
                self.tunnels.append(tunnel)
                await tunnel.open()
            await self._wait_connected("at first")
            await self._act()
            await self._be_quiet()
            await self._probe()
            await self._close()
        finally:
            await self._end()
        if not self._is_first:
            await self._check_standing(before)

    # -- what happens

    async def _act(self) -> None:
        started = asyncio.get_running_loop().time()

        async def at(ms: int, what: Callable[[], Any]) -> None:
            await asyncio.sleep(max(0.0, started + ms / 1_000 - asyncio.get_running_loop().time()))
            await what()

        faults = [
            asyncio.ensure_future(at(each.at_ms, lambda each=each: self._faults.commit(each)))
            for each in self.schedule.faults
        ]
        self._pending = [
            asyncio.ensure_future(at(each.at_ms, lambda each=each: self._converse(each)))
            for each in self.schedule.conversations
        ]
        await asyncio.gather(*faults)
        await asyncio.sleep(max(0.0, started + SPAN_MS / 1_000 - asyncio.get_running_loop().time()))

    async def _be_quiet(self) -> None:
        """Undo what lasts, and wait until every conversation has ended and every tunnel is back."""
        self._faults.end()
        for tunnel in self.tunnels:
            for proxy in tunnel.all_proxies:
                proxy.calm()
            if tunnel.number in self.schedule.corrupted():
                # Nothing may notice what was corrupted: a length, an id.
                tunnel.source_link.reset()
                tunnel.destination_link.reset()
        stuck = await self._wait_done(self._pending)
        await self._eventually(self._is_served)
        self._judge(self.schedule.conversations)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        await self._wait_connected("after quiet")

    def _is_served(self) -> bool:
        with self._lock:
            return all(each.is_over for each in self._accounts.values())

    async def _wait_connected(self, when: str) -> None:
        def away() -> list[tuple[str, TunnelState, str]]:
            states = [each for tunnel in self.tunnels for each in tunnel.states()]
            return [each for each in states if each[1] is not TunnelState.CONNECTED]

        def is_back() -> bool:
            for name, state, _reason in away():
                tunnel = next(each for each in self.tunnels if name.startswith(f"{each.name} "))
                if state is TunnelState.REFUSED and tunnel.number in self.schedule.corrupted():
                    # A request that was corrupted on the way was refused, as it should be: that
                    # ends a tunnel until somebody gives it its token.
                    self.result.tolerated[REFUSED_CORRUPTED] += 1
                    tunnel.give_token(Mode(name.rpartition(" ")[2]))
            return not away()

        def is_all_buried_dug_up() -> bool:
            links = [p for each in self.tunnels for p in (each.source_link, each.destination_link)]
            return not any(each.has_buried for each in links)

        if not await self._eventually(is_all_buried_dug_up):
            self.result.violations.append(f"a black hole is not noticed {when}")
        if not await self._eventually(is_back):
            self.result.violations.append(f"not connected {when}: {away()}")

    async def _probe(self) -> None:
        """A conversation through every service of every tunnel, which must be whole.

        An end that is lost may not know it yet when all are connected: then once more.
        """
        failed: list[Conversation] = []
        tries = starved = 0
        while tries < PROBES:
            missed = self._missed_pongs()
            probes = self._make_probes(PROBE_NUMBERS * (tries + starved + 1))
            self._talks.update({each.number: each for each in probes})
            tasks = [asyncio.ensure_future(self._converse(each)) for each in probes]
            for task in await self._wait_done(tasks):
                task.cancel()
            await self._eventually(self._is_served)
            failed = [each for each in probes if not self._is_whole(each)]
            if not failed:
                break
            self.result.endings["probe that came too early"] += len(failed)
            await asyncio.sleep(PROBE_PAUSE_SECONDS * tries)
            await self._wait_connected("before another probe")
            # What was lost counts once it is back.
            now = self._missed_pongs()
            is_starved = all(now[each.tunnel] > missed[each.tunnel] for each in failed)
            if is_starved and starved < STARVED_PROBES:
                starved += 1
            else:
                tries += 1
        self._judge(failed, is_probe=True)

    def _missed_pongs(self) -> Counter[int]:
        """How often each tunnel that is made impatient has lost a link because of no pong."""
        return Counter(
            {
                number: sum(
                    self.runtime.tunnel(name).stats.reconnects.get("ping_timeout", 0)
                    for name, *_ in self.tunnels[number].states()
                )
                for number in self.schedule.impatient()
            }
        )

    def _make_probes(self, first: int) -> list[Conversation]:
        places = [(tunnel, each) for tunnel in self.tunnels for each in range(tunnel.plan.services)]
        return [
            Conversation(
                number=first + count,
                tunnel=tunnel.number,
                service=service,
                at_ms=0,
                up_bytes=3_000,
                down_bytes=20_000,
                chunk_bytes=1_000,
                pause_ms=0,
                read_bytes=65_536,
                read_pause_ms=0,
                end=End.CLIENT_FIRST if self._is_marked(tunnel) else End.ASKED,
            )
            for count, (tunnel, service) in enumerate(places)
        ]

    def _is_whole(self, probe: Conversation) -> bool:
        known = Circumstances(is_marked=True, is_corrupted=False, must_be_whole=True)
        if not self._is_marked(self.tunnels[probe.tunnel]):
            known = dataclasses.replace(known, is_marked=False)
        with self._lock:
            server = self._accounts.get(probe.number)
        client = self._clients.get(probe.number, Ending())
        return not verdict(probe, client, server, known).violations

    def _is_marked(self, tunnel: PlantedTunnel) -> bool:
        names = {name for name, *_ in tunnel.states()}
        return tunnel.plan.is_marked and not names & self.log.unmarked

    def _judge(
        self, talks: tuple[Conversation, ...] | list[Conversation], *, is_probe: bool = False
    ) -> None:
        touched, corrupted = self.schedule.touched(), self.schedule.corrupted()
        for talk in talks:
            tunnel = self.tunnels[talk.tunnel]
            known = Circumstances(
                is_marked=self._is_marked(tunnel),
                is_corrupted=talk.tunnel in corrupted and not is_probe,
                must_be_whole=is_probe or talk.tunnel not in touched,
            )
            client = self._clients.get(talk.number, Ending())
            with self._lock:
                server = self._accounts.get(talk.number)
            found = verdict(talk, client, server, known)
            what = "probe" if is_probe else "conversation"
            self.result.violations += [
                f"{what} {talk.number} on tunnel {talk.tunnel}: {text} [client {client}, "
                f"server {server}]"
                for text in found.violations
            ]
            self.result.tolerated.update(found.tolerated)
            told = server.told if server is not None else "never there"
            self.result.endings[f"client {client.told}, server {told}"] += 1
            self.result.verified_bytes += client.received_bytes
            self.result.verified_bytes += server.received_bytes if server is not None else 0

    # -- applications

    def serve(self, tunnel: PlantedTunnel, service_id: str) -> tuple[str, int]:
        """Listen as the server of a service; return where."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.setblocking(False)
        self._listeners.append(listener)
        self._spawn(self._accept(listener, tunnel, service_id))
        address: tuple[str, int] = listener.getsockname()
        return address

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _accept(
        self, listener: socket.socket, tunnel: PlantedTunnel, service_id: str
    ) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            sock.setblocking(False)
            self._spawn(self._answer(sock, tunnel, service_id))

    async def _answer(self, sock: socket.socket, tunnel: PlantedTunnel, service_id: str) -> None:
        """Find out whose connection it is, and be that conversation's server."""
        loop = asyncio.get_running_loop()
        head = b""
        try:
            while len(head) < HEADER_BYTES:
                data = await loop.sock_recv(sock, 1_000)
                if not data:
                    # A client sends its header before it ends in any order.
                    if self._is_marked(tunnel):
                        self.strange(tunnel, "an end that was none, before the header")
                    break
                head += data
        except OSError:
            head = b""
        except asyncio.CancelledError:
            sock.close()
            raise
        if len(head) < HEADER_BYTES:
            sock.close()
            return
        number = int.from_bytes(head[:HEADER_BYTES], "big")
        ending = Ending()
        talk = self.claim(tunnel, service_id, number, ending)
        if talk is None:
            sock.close()
            return
        application = Application(talk, sock, self.schedule.seed, is_client=False, ending=ending)
        application.hear(head)
        await application.run()

    def claim(
        self, tunnel: PlantedTunnel, service_id: str, number: int, ending: Ending
    ) -> Conversation | None:
        """Return the conversation of a number that came to a server, and keep its account."""
        talk = self._talks.get(number)
        if talk is None or talk.tunnel != tunnel.number or f"S{talk.service}" != service_id:
            self.strange(tunnel, f"number {number} came to {tunnel.name} {service_id}")
            return None
        with self._lock:
            if number in self._accounts:
                self.strange(tunnel, f"conversation {number} came twice")
                return None
            self._accounts[number] = ending
        return talk

    def strange(self, tunnel: PlantedTunnel, text: str) -> None:
        """Something came that nobody sent."""
        if tunnel.number not in self.schedule.corrupted():
            self.result.violations.append(text)

    async def _converse(self, talk: Conversation) -> None:
        tunnel = self.tunnels[talk.tunnel]
        service_id = tunnel.service_ids[talk.service]
        if tunnel.plan.version == 3:
            await self._client(talk, tunnel.clients[service_id])
            return
        # One connection is one stream, and the next would end it.
        async with tunnel.locks[service_id]:
            await self._client(talk, tunnel.clients[service_id])
            await self._eventually(self._is_served)

    async def _client(self, talk: Conversation, proxy: Proxy) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        ending = self._clients[talk.number] = Ending()
        await asyncio.get_running_loop().sock_connect(sock, proxy.address)
        application = Application(talk, sock, self.schedule.seed, is_client=True, ending=ending)
        await application.run()

    # -- the end

    async def _wait_done(self, tasks: Collection[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
        """Wait for conversations; return those that are stuck."""
        await self._eventually(lambda: all(each.done() for each in tasks))
        return [each for each in tasks if not each.done()]

    async def _eventually(self, true: Callable[[], bool]) -> bool:
        """Wait until something holds; False when nothing has moved for long."""

        def endings() -> list[Ending]:
            with self._lock:
                return [*self._clients.values(), *self._accounts.values()]

        return await eventually(true, endings, QUIET_SECONDS, POLL_SECONDS)

    def _left_over(self) -> list[str]:
        """The actors of tunnels that are alive: class, tunnel, mail, and who watches them."""
        cells = [cell for each in self.runtime.dispatchers for cell in list(each._cells)]
        return sorted(
            f"{cell.actor_class.__name__} of {cell.label or 'nobody'}, {len(cell.items)} messages "
            f"wait, watched by {[each.actor_class.__name__ for each in list(cell.watchers)]}"
            for cell in cells
            if cell.actor_class.__name__ not in OF_A_RUNTIME
        )

    async def _close(self) -> None:
        def connections() -> int:
            return len(actors(self.runtime, "SocketActor"))

        if not await self._eventually(lambda: connections() == 0):
            self.result.violations.append(f"{connections()} connections are left over")
        names = [f"{tunnel.name} {mode}" for tunnel in self.tunnels for mode in Mode]
        active = [(name, self.runtime.tunnel(name).status().connections_active) for name in names]
        self.result.violations += [f"{each[0]} counts {each[1]}" for each in active if each[1]]
        await asyncio.gather(*(asyncio.to_thread(each.close) for each in self.tunnels))
        if not await self._eventually(lambda: not self._left_over()):
            self.result.violations.append(f"actors are left over: {self._left_over()}")

    async def _end(self) -> None:
        try:
            await asyncio.to_thread(self.runtime.stop)
        except TunnelError as error:
            self.result.violations.append(f"the runtime did not stop: {error}")
        await asyncio.to_thread(self.service.stop)
        for tunnel in self.tunnels:
            for proxy in tunnel.all_proxies:
                await proxy.stop()
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def _check_standing(self, before: Standing) -> None:
        self.tunnels.clear()
        if not await self._eventually(lambda: not Standing.now().beyond(before)):
            self.result.violations += Standing.now().beyond(before)
