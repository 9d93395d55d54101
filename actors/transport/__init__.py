"""Towards the service: connecting, the WebSocket codec, keep-alive, the connect governor."""
