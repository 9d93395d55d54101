"""The soak: a fleet that is churned, dropped and reloaded for long, and what it costs meanwhile."""
