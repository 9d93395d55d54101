"""Measuring a tunnel: throughput, round trips, connections, from one end of it to the other.

`Bench` is all that the command line needs.
"""

from .bench import Bench, BenchOptions
from .far_end import FarEnd
from .figures import TunnelFigures

__all__ = ["Bench", "BenchOptions", "FarEnd", "TunnelFigures"]
