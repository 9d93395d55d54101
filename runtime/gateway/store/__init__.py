"""What survives a restart: tunnels added at run time, and the audit."""
