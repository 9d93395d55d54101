"""What loading protobuf takes that its C form does not need.

Owns the one name of protobuf that is not public. `google.protobuf.internal.python_message` has a
protobuf of its own in Python, with a format for text and much of the standard library: 14 modules,
1.1 MB and 12 ms of each start. The generated code imports it whatever form is in use. Here it is
loaded when something is asked of it, which the C form never does. Checked against protobuf 6.33;
where the name is another one, everything is loaded as before.
"""

from __future__ import annotations

import importlib.util
import sys

_PACKAGE, _CHILD = "google.protobuf.internal", "python_message"


def _load_when_used(package: str, child: str) -> None:
    name = f"{package}.{child}"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # `from package import child` would else ask the module for its spec, and so load it.
    setattr(sys.modules[package], child, module)


_load_when_used(_PACKAGE, _CHILD)

from . import tunnel_pb2  # noqa: E402 - behind what it is to find

__all__ = ["tunnel_pb2"]
