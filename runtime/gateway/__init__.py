"""The fleet gateway: many tunnels from files, in one process, that change while it runs."""
