"""`tunnelfleet localproxy`."""
