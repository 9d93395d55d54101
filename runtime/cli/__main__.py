"""`python -m tunnelfleet.runtime.cli` is the same as `tunnelfleet`."""

import sys

from . import main

sys.exit(main())
