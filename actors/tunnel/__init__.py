"""The middle of a tunnel: its actor, streams, fair queue, pacing, supervisors, messages."""
