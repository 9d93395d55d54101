"""The commands of the fleet gateway: `tunnelfleet up`, `tunnelfleet check`."""
