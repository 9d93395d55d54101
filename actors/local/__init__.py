"""Towards applications: sockets, listeners, a stream's sockets."""
