"""Packages whose public names are loaded when somebody asks for one (PEP 562).

Such a package has a module `names` that imports them all, or says which module has each. A command
that asks a gateway then does not wait for the parts of one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping


def names_of(package: str) -> Callable[[str], object]:
    """Make the `__getattr__` of a package, which loads the names of its module `names`.

    Args:
        package: its name, as in `__name__`.
    """

    def load(name: str) -> object:
        """Load a public name.

        Raises:
            AttributeError: there is no such name.
        """
        unknown = AttributeError(f"module {package!r} has no attribute {name!r}")
        if name.startswith("__") and name != "__all__":
            raise unknown
        if importlib.util.find_spec(f"{package}.{name}") is not None:
            # `from . import name` asks here first, perhaps in the midst of the import of `names`.
            raise unknown
        face = importlib.import_module(f"{package}.names")
        if name != "__all__" and name not in face.__all__:
            raise unknown
        value: object = getattr(face, name)
        setattr(sys.modules[package], name, value)
        return value

    return load


def names_in(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of a package that loads only the module that has a name.

    Args:
        package: its name, as in `__name__`.
        modules: where each public name is: the name of a module in the package, and behind a dot
            the name there if it is another one.
    """

    def load(name: str) -> object:
        """Load a public name.

        Raises:
            AttributeError: there is no such name.
        """
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, present = modules[name].partition(".")
        return getattr(importlib.import_module(f"{package}.{module}"), present or name)

    return load
