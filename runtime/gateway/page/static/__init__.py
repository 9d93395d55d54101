"""What a browser loads: one page, its style and its program.

Nothing of it is built, and nothing comes from elsewhere.
"""
