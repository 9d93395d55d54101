"""The admin API of a gateway: HTTP and JSON, at a Unix socket or in a host's application."""

from .app import make_api
from .context import ApiPlaces
from .feed import EventFeed
from .server import ApiOptions, ApiServer

__all__ = ["ApiOptions", "ApiPlaces", "ApiServer", "EventFeed", "make_api"]
