"""The gateway's admin API: its routes over HTTP, and the client that the commands use."""
