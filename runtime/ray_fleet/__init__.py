"""A fleet on a Ray cluster: groups of shards are Ray actors, and one more knows who has which.

`book` decides, `directory` and `group` are the actors, `fleet` is what the commands do, and
`cluster` has all that is asked of Ray itself.
"""
