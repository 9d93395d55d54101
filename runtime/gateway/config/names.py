"""The public names of this package, which it loads when it is asked for one."""

from .fleet import (
    CloudPlace,
    DemandLimits,
    DoorRule,
    FleetConfig,
    GatewaySettings,
    OnDemandSettings,
)
from .loader import load, read_tunnel
from .problems import ConfigProblems, Problem
from .schema import json_schema
from .secrets import Authorities, ClientTokens, ensure_secret

__all__ = [
    "Authorities",
    "ClientTokens",
    "CloudPlace",
    "ConfigProblems",
    "DemandLimits",
    "DoorRule",
    "FleetConfig",
    "GatewaySettings",
    "OnDemandSettings",
    "Problem",
    "ensure_secret",
    "json_schema",
    "load",
    "read_tunnel",
]
