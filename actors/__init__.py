"""The actors: `kernel` runs, watches and supervises them; the others carry a tunnel."""
