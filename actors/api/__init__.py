"""Towards the user's code: commands, events, the outbox between threads and actors."""
