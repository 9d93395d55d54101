"""The demo: a service, a fleet of tunnels, real traffic through them, and chaos, in one process.

`Demo` is all that the command line needs.
"""

from .demo import Demo, DemoOptions
from .report import Report
from .view import View, make_view

__all__ = ["Demo", "DemoOptions", "Report", "View", "make_view"]
