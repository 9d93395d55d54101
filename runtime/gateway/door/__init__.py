"""Front doors: one address for all tunnels, by name."""
