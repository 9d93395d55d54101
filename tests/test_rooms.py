"""The house: which rooms know which, and that no files import each other in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("proto", "actors", "runtime")

ALLOWED = {
    "proto": set[str](),
    "actors/kernel": set[str](),
    "actors": {"actors/kernel", "proto"},
    "actors/net": {"actors", "actors/kernel"},
    "actors/tunnel": {"actors", "actors/kernel", "actors/net", "proto"},
    "actors/transport": {"actors", "actors/kernel", "actors/net", "actors/tunnel", "proto"},
    "actors/local": {"actors", "actors/kernel", "actors/net", "actors/tunnel", "proto"},
    "actors/api": {"actors", "actors/kernel", "actors/tunnel", "proto"},
}
"""What each room knows of other rooms, no more and no less (docs/architecture.md section 1)."""

TUNNEL_FACE = frozenset({"actors.tunnel.messages", "actors.tunnel.context"})
"""What the rooms around the tunnel know of it: what it says, and what it asks of its parts."""


def modules() -> dict[str, Path]:
    """Every module of the three floors by its dotted name."""
    found: dict[str, Path] = {}
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            if "__pycache__" not in path.parts and not path.name.endswith("_pb2.py"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str, *, with_types: bool) -> set[str]:
    """The modules of ours that a module imports, at import time, or in its annotations too."""
    path = MODULES[name]
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if is_typing and not with_types:
            skipped.update(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node in skipped:
            continue
        base = (node.module or "").removeprefix("tunnelfleet").removeprefix(".")
        if node.level:
            parts = package.split(".")
            parents = parts[: len(parts) - (node.level - 1)]
            base = ".".join([*parents, *([node.module] if node.module else [])])
        elif not (node.module or "").startswith("tunnelfleet"):
            continue
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.add(inner if inner in MODULES else base)
    return {each for each in found if each in MODULES} - {name}


def circles(*, with_types: bool) -> list[list[str]]:
    """The sets of modules that reach each other. A package's face is looked through."""
    arrows = {
        name: {
            each
            for each in imported(name, with_types=with_types)
            if MODULES[each].name != "__init__.py"
        }
        for name in MODULES
    }
    reached: dict[str, set[str]] = {}
    for start in MODULES:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += arrows[name]
        reached[start] = seen
    found: list[list[str]] = []
    for name in MODULES:
        circle = sorted(each for each in reached[name] if name in reached[each])
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def room(name: str) -> str:
    """`actors/tunnel` for `actors.tunnel.link`, `actors` for `actors.config`."""
    parts = name.split(".")
    is_in_a_room = len(parts) > 2 or (len(parts) == 2 and MODULES[name].name == "__init__.py")
    return "/".join(parts[:2]) if parts[0] == "actors" and is_in_a_room else parts[0]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(with_types=False) == []


def test_no_files_name_each_others_types_in_a_circle() -> None:
    assert circles(with_types=True) == []


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_rooms_know_what_they_may_and_the_list_has_no_more(name: str) -> None:
    known: defaultdict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        if room(module) == name:
            for each in imported(module, with_types=True):
                if room(each) != name:
                    known[room(each)].append(f"{module} -> {each}")
    for other in set(known) - ALLOWED[name]:
        pytest.fail(f"{name} must not know {other}: {known[other]}")
    assert set(known) == ALLOWED[name], f"{name} knows less than the list says: shorten the list"


def test_the_parts_of_a_tunnel_know_its_messages_and_not_its_actor() -> None:
    known = {
        f"{module} -> {each}"
        for module in MODULES
        if module.startswith("actors.") and room(module) != "actors/tunnel"
        for each in imported(module, with_types=True)
        if room(each) == "actors/tunnel" and each not in TUNNEL_FACE
    }
    assert known == set()


def test_the_parts_of_a_tunnel_s_actor_do_not_know_it() -> None:
    """Only who starts it does: it hands its parts what they need."""
    knowing = {
        module
        for module in MODULES
        if module.startswith("actors")
        and "actors.tunnel.actor" in imported(module, with_types=True)
    }
    assert knowing == {"actors.tunnel.supervisors"}
