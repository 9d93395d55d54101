"""What both sides of a tunnel need of sockets: reading, ending, dialling, names."""
