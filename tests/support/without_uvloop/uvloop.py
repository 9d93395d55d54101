"""Stands in front of the installed uvloop, in the processes that tests start too.

`make test UVLOOP=no` puts its folder on PYTHONPATH.
"""

raise ModuleNotFoundError("uvloop is left out: make test UVLOOP=no", name="uvloop")
