"""Property tests run the same examples everywhere, so that a failure is never a matter of luck."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=200)
settings.load_profile("fixed")
