"""Exceptions in actors: which messages each class handles, and one that is raised at one of them.

The seam is `on_receive`, the hook through which pykka's actors get each message: for the time of a
test, that of one class raises when a message of one type comes, for one actor, once. Meanwhile its
dispatcher takes no shorter way (`DispatchedActor.DIRECT`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
import threading
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import tunnelfleet.actors
import tunnelfleet.runtime
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import DispatchedActor, SupervisorActor
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.kernel.cell import handle_otherwise

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher

EXTRAS = ("tunnelfleet.runtime.ray_fleet", "tunnelfleet.actors.kernel.uv_loop")
"""What needs packages that are not installed for the tests, or not for all of them."""


class KilledError(Exception):
    """What is raised in an actor that is killed."""


class Moment(Enum):
    """When it is raised."""

    BEFORE = "before"
    """In the place of the handler: the message is lost."""
    AFTER = "after"
    """Behind the handler, whose work was done."""


class Kill:
    """Raises in an actor of a class when it gets a message of a type; a context manager.

    Args:
        actor_class: exactly this class.
        message: exactly this type, or a subclass of it if it is never sent itself.
        moment: before or after it is handled.
        label: only in an actor of this label, which is the name of its tunnel; None for any.
        spares: not in these.
    """

    def __init__(
        self,
        actor_class: type[DispatchedActor],
        message: type,
        moment: Moment = Moment.BEFORE,
        label: str | None = None,
        spares: Collection[ActorRef[Any]] = (),
    ) -> None:
        self._spares = frozenset(spares)
        self._class = actor_class
        self._message = message
        self._moment = moment
        self._label = label
        self._done = threading.Event()
        self.victim: ActorRef[Any] | None = None
        """In which it was raised."""

    def __enter__(self) -> Self:
        is_own = "on_receive" in vars(self._class)
        handle: Any = self._class.on_receive

        def on_receive(actor: DispatchedActor, message: Any) -> Any:
            if not self._is_meant(actor, message):
                return handle(actor, message)
            self.victim = actor.actor_ref
            self._done.set()
            if self._moment is Moment.AFTER:
                handle(actor, message)
            raise KilledError(f"{self._class.__name__} at {self._message.__name__}")

        self._before = handle if is_own else None
        self._handling = self._class.HANDLING
        nothing: Handlers = {}
        self._class.HANDLING = (nothing.get, handle_otherwise)
        self._class.on_receive = on_receive  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._class.HANDLING = self._handling
        if self._before is None:
            del self._class.on_receive
        else:
            self._class.on_receive = self._before  # type: ignore[method-assign]

    def _is_meant(self, actor: DispatchedActor, message: Any) -> bool:
        return (
            isinstance(message, self._message)
            and type(actor) is self._class
            and self._label in (None, actor.actor_ref.cell.label)
            and actor.actor_ref not in self._spares
            and not self._done.is_set()
        )

    @property
    def is_done(self) -> bool:
        """Whether it was raised."""
        return self._done.is_set()

    def wait(self) -> None:
        """Wait until it was raised."""
        name = f"{self._class.__name__} got no {self._message.__name__}"
        assert self._done.wait(WAIT_SECONDS), name


def live(dispatchers: Collection[Dispatcher], actor_class: type) -> list[ActorRef[Any]]:
    """The live actors of a class."""
    return [
        cell.ref
        for dispatcher in dispatchers
        for cell in list(dispatcher._cells)
        if cell.actor_class is actor_class
    ]


def failed(dispatchers: Collection[Dispatcher]) -> Counter[str]:
    """The classes whose actors ended by an exception, and how many."""
    found: Counter[str] = Counter()
    for each in dispatchers:
        found.update(each.stats.snapshot().actor_failures)
    return found


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def actor_classes() -> list[type[DispatchedActor]]:
    """Every class of actors of the two upper floors, by module and name."""
    for package in (tunnelfleet.actors, tunnelfleet.runtime):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not each.name.endswith("__main__") and not each.name.startswith(EXTRAS):
                importlib.import_module(each.name)
    found = [
        each
        for each in _subclasses(DispatchedActor)
        # Beside them are the classes of tests.
        if each.__module__.startswith("tunnelfleet.") and each is not SupervisorActor
    ]
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def _subclasses(of: type) -> Iterator[type[Any]]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def handled_messages(actor_class: type[DispatchedActor]) -> set[type]:
    """The types that a class handles: those of its tables, and those its `on_receive` names."""
    found: set[type] = set()
    for each in actor_class.__mro__:
        if each is DispatchedActor:
            break
        for table in ("HANDLERS", "FACTS", "COMMANDS"):
            found |= set(vars(each).get(table, {}))
        if "on_receive" in vars(each):
            found |= _named_in(vars(each)["on_receive"])
    return found


def _named_in(method: Any) -> set[type]:
    names = vars(sys.modules[method.__module__])
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    found: set[type] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            for name in ast.walk(node.args[1]):
                if isinstance(name, ast.Name):
                    value = names[name.id]
                    found |= set(value) if isinstance(value, tuple) else {value}
        elif isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            found.add(names[node.cls.id])
    return found
