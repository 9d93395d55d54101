"""Worker processes: the tunnels of one gateway in several processes.

Owns both ends: `WorkerProcesses` in the gateway's own process, and the program that runs in each of
the others (`worker`, `reporter`).
"""

from .processes import WorkerProcesses

__all__ = ["WorkerProcesses"]
