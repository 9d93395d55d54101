"""Outages of real processes, with verified traffic through them.

They are started once, and each schedule does something to some of them while conversations pass
from clients at the gateway's listeners to servers behind destinations of this process. What is not
to notice an outage must not; when it is over, a conversation through each tunnel is whole, and no
process has more descriptors than it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.support.memory import rss_bytes
from tests.support.witness import actors
from tunnelfleet.runtime.gateway.placement import worker_of

from .outage import TUNNELS, WORKERS, Blow, Outage, Strike, Victim, outage_of
from .report import Sums
from .results import QUIET_SECONDS, Result
from .schedule import Conversation, End
from .talk import HEADER_BYTES, Application, Circumstances, Ending, eventually, verdict
from .town import Town, descriptors_of

BACK_SECONDS: Final = 120.0
"""For a gateway or a service that was started again, with all its tunnels, on a busy machine."""
SPARE_DESCRIPTORS: Final = 12
"""So many more may be open at a moment than at another."""
GROWTH_BYTES: Final = 80_000_000
PROBE: Final = Conversation(0, 0, 0, 0, 3_000, 20_000, 1_000, 0, 65_536, 0, End.CLIENT_FIRST)
ROOM: Final = 4
"""Descriptors that a process has left when it is to have none."""


class Blows:
    """Does to processes what a schedule says, and undoes it.

    Args:
        town: whose.
    """

    def __init__(self, town: Town) -> None:
        self._town = town

    async def strike(self, strike: Strike) -> bool:
        """Do it, and undo it after its time; say whether it happened."""
        if strike.blow is Blow.KILL:
            return await self._kill(strike)
        pid = self._pid(strike)
        if not pid:
            return False
        # It may have been killed meanwhile, or have ended with its gateway.
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if strike.blow is Blow.FREEZE:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(strike.for_ms / 1_000)
                finally:
                    os.kill(pid, signal.SIGCONT)
            else:
                await self._starve(pid, strike)
            return True
        return False

    def _pid(self, strike: Strike) -> int:
        town = self._town
        if strike.victim is Victim.WORKER:
            return town.worker_pid(strike.worker)
        if strike.victim is Victim.STORE:
            process = town.postgres._process
            return process.pid if process is not None else 0
        if strike.victim is Victim.BROKER:
            broker = town.broker.process
            return broker.pid if broker is not None else 0
        return town.pids()[strike.victim]

    async def _kill(self, strike: Strike) -> bool:
        town, pause = self._town, strike.for_ms / 1_000
        if strike.victim is Victim.WORKER:
            # Its gateway starts it again.
            if pid := town.worker_pid(strike.worker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
            return False
        if strike.victim is Victim.STORE:
            if town.postgres._process is None:
                return False
            await asyncio.to_thread(town.postgres.stop, signal.SIGQUIT)
            await asyncio.sleep(pause)
            await asyncio.to_thread(town.postgres.start)
        elif strike.victim is Victim.BROKER:
            broker = town.broker
            if broker.process is None:
                return False
            broker.process.kill()
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(pause)
            await asyncio.to_thread(broker.start)
        else:
            program = town.service if strike.victim is Victim.SERVICE else town.gateway
            await asyncio.to_thread(program.kill)
            await asyncio.sleep(pause)
            program.start()
        return True

    async def _starve(self, pid: int, strike: Strike) -> None:
        """Let a process open nothing more, or write no more to files, for a time."""
        kind, limit = resource.RLIMIT_FSIZE, 0
        if strike.blow is Blow.DESCRIPTORS:
            kind, limit = resource.RLIMIT_NOFILE, descriptors_of(pid) + ROOM
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (limit, before[1]))
        try:
            await asyncio.sleep(strike.for_ms / 1_000)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, before)


class Watch:
    """The descriptors and the memory of each process, from its first quiet moment on."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}

    def grown(self, pids: dict[str, int]) -> list[str]:
        """What any process has more than at first."""
        found = []
        for name, pid in pids.items():
            try:
                now = descriptors_of(pid), rss_bytes(pid)
            except OSError:
                continue
            first = self._first.setdefault(pid, now)
            if now[0] > first[0] + SPARE_DESCRIPTORS:
                found.append(f"{name} has {now[0]} descriptors, and had {first[0]}")
            if now[1] > first[1] + GROWTH_BYTES:
                found.append(f"{name} has {now[1]:,} bytes of memory, and had {first[1]:,}")
        return found


class Siege:
    """Carries out one schedule in a town.

    Args:
        town: where.
        outage: what to do.
        watch: of the town's processes.
    """

    def __init__(self, town: Town, outage: Outage, watch: Watch) -> None:
        self._town = town
        self._outage = outage
        self._watch = watch
        self._result = Result(outage.seed)
        self._talks = {each.number: each for each in outage.conversations}
        self._accounts: dict[int, Ending] = {}
        self._clients: dict[int, Ending] = {}
        self._serving: set[asyncio.Future[Any]] = set()
        self._next_probe = outage.seed * 100_000 + 50_000

    async def run(self) -> Result:
        """Do all of it; return what came of it."""
        started = time.monotonic()
        for number in range(TUNNELS):
            self._spawn(self._accept(number))
        try:
            await self._wait_carried("before")
            await self._act()
            self._judge()
            await self._wait_carried("after")
            await self._check_left_over()
        finally:
            for each in list(self._serving):
                each.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
        self._result.seconds = time.monotonic() - started
        return self._result

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _act(self) -> None:
        loop, blows = asyncio.get_running_loop(), Blows(self._town)
        started = loop.time()

        async def at(ms: int, what: Callable[[], Any]) -> Any:
            await asyncio.sleep(max(0.0, started + ms / 1_000 - loop.time()))
            return await what()

        async def hit(strike: Strike) -> None:
            if await blows.strike(strike):
                self._result.survived[strike.name] += 1

        strikes = [
            asyncio.ensure_future(at(each.at_ms, lambda each=each: hit(each)))
            for each in self._outage.strikes
        ]
        talks = [
            asyncio.ensure_future(at(each.at_ms, lambda each=each: self._client(each)))
            for each in self._outage.conversations
        ]
        await asyncio.gather(*strikes)
        await self._eventually(lambda: all(each.done() for each in talks))
        await self._eventually(lambda: all(each.is_over for each in self._accounts.values()))
        for task in talks:
            # Only those that are stuck take note of it.
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    def _judge(self) -> None:
        for talk in self._outage.conversations:
            worker = worker_of(self._town.names[talk.tunnel], WORKERS)
            cuts = any(each.cuts(worker) for each in self._outage.strikes)
            known = Circumstances(is_marked=True, is_corrupted=False, must_be_whole=not cuts)
            client = self._clients.get(talk.number, Ending())
            server = self._accounts.get(talk.number)
            found = verdict(talk, client, server, known)
            self._result.violations += [
                f"conversation {talk.number} on tunnel {talk.tunnel} of worker {worker}: {text} "
                f"[client {client}, server {server}]"
                for text in found.violations
            ]
            self._result.tolerated.update(found.tolerated)
            told = server.told if server is not None else "never there"
            self._result.endings[f"client {client.told}, server {told}"] += 1
            self._result.verified_bytes += client.received_bytes
            self._result.verified_bytes += server.received_bytes if server is not None else 0

    async def _wait_carried(self, when: str) -> None:
        """Wait until a conversation through each tunnel is whole."""
        deadline, missing = time.monotonic() + BACK_SECONDS, set(range(TUNNELS))
        while missing:
            carried = await asyncio.gather(*(self._carries(each) for each in missing))
            missing -= {number for number, is_whole in carried if is_whole}
            if time.monotonic() > deadline:
                self._result.violations.append(f"tunnels {missing} carry nothing {when}")
                return
            if missing:
                await asyncio.sleep(0.2)

    async def _carries(self, tunnel: int) -> tuple[int, bool]:
        self._next_probe += 1
        probe = replace(PROBE, number=self._next_probe, tunnel=tunnel)
        self._talks[probe.number] = probe
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._client(probe), QUIET_SECONDS)
            await asyncio.sleep(0)
        server = self._accounts.pop(probe.number, None)
        client = self._clients.pop(probe.number)
        return tunnel, server is not None and client.received_bytes == PROBE.down_bytes

    async def _check_left_over(self) -> None:
        def connections() -> int:
            return len(actors(self._town.runtime, "SocketActor"))

        if not await self._eventually(lambda: connections() == 0):
            self._result.violations.append(f"{connections()} connections are left over")
        grown: list[str] = []

        def is_as_before() -> bool:
            grown[:] = self._watch.grown(self._town.pids())
            return not grown

        if not await self._eventually(is_as_before):
            self._result.violations += grown

    async def _eventually(self, true: Callable[[], bool]) -> bool:
        return await eventually(true, self._endings, QUIET_SECONDS, 0.05)

    def _endings(self) -> list[Ending]:
        return [*self._clients.values(), *self._accounts.values()]

    # -- applications

    async def _client(self, talk: Conversation) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        ending = self._clients[talk.number] = Ending()
        address = ("127.0.0.1", self._town.ports[talk.tunnel])
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            sock.close()
            ending.cut, ending.is_over = type(error).__name__, True
            return
        await Application(talk, sock, self._outage.seed, is_client=True, ending=ending).run()

    async def _accept(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._town.listeners[number])
            sock.setblocking(False)
            self._spawn(self._answer(sock, number))

    async def _answer(self, sock: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        head = b""
        try:
            while len(head) < HEADER_BYTES:
                data = await loop.sock_recv(sock, 1_000)
                if not data:
                    self._result.violations.append("an end that was none, before the header")
                    break
                head += data
        except OSError:
            head = b""
        talk = self._talks.get(int.from_bytes(head[:HEADER_BYTES], "big"))
        if len(head) < HEADER_BYTES or talk is None or talk.tunnel != number:
            if len(head) >= HEADER_BYTES:
                self._result.violations.append(f"strange bytes on tunnel {number}: {head[:8]!r}")
            sock.close()
            return
        ending = self._accounts[talk.number] = Ending()
        seed = self._outage.seed
        application = Application(talk, sock, seed, is_client=False, ending=ending)
        application.hear(head)
        await application.run()


def run_processes(seeds: list[int], sums: Sums, folder: Path, save: Callable[[Sums], None]) -> None:
    """Carry out the schedules of the seeds; the processes are started once.

    Args:
        seeds: of the schedules.
        sums: what comes of them is added here.
        folder: for the files of the processes.
        save: keeps the sums after each schedule.
    """
    watch = Watch()
    with Town(folder) as town:
        for seed in seeds:
            outage = outage_of(seed)
            result = asyncio.run(Siege(town, outage, watch).run())
            sums.add(result)
            save(sums)
            told = ", ".join(result.survived) or "nothing happened"
            print(f"seed {seed}: {result.seconds:.1f} s, {told}", flush=True)
            for text in result.violations:
                print(f"    VIOLATED: {text}")
            if result.violations:
                print("\n".join(outage.lines()), flush=True)
        for program in (town.gateway, town.service):
            if status := program.end():
                print(f"VIOLATED: it ended with {status}:\n{program.log.read_text()[-2_000:]}")
                sums.violations += 1
