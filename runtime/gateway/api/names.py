"""The public names of this package, which it loads when it is asked for one."""

from .app import make_api
from .context import ApiPlaces
from .feed import EventFeed
from .server import ApiOptions, ApiServer

__all__ = ["ApiOptions", "ApiPlaces", "ApiServer", "EventFeed", "make_api"]
