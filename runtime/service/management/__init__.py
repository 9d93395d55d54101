"""The management API of AWS IoT Secure Tunneling, as the embedded service has it."""
