"""The management API of AWS IoT Secure Tunneling, as the embedded service has it.

What AWS's SDKs and command line call to open, list, rotate and close tunnels. ``ManagementServer``
is all that a user needs; extra ``aws``.
"""

from .operations import ManagementLimits, aws_limits
from .server import ManagementServer
from .signature import AccessKey, load_credentials

__all__ = [
    "AccessKey",
    "ManagementLimits",
    "ManagementServer",
    "aws_limits",
    "load_credentials",
]
