"""`python -m tunnelfleet.runtime.cli` is the same as `tunnelfleet`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
