"""`tunnelfleet service`."""
