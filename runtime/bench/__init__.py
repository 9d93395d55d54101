"""Measuring a tunnel: throughput, round trips, connections, from one end of it to the other.

`Bench` is all that the command line needs.
"""

from .bench import Bench, BenchOptions
from .figures import FarEnd, TunnelFigures

__all__ = ["Bench", "BenchOptions", "FarEnd", "TunnelFigures"]
