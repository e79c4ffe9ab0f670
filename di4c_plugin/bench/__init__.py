"""Memory and time of a method's loss, of an update and of a network call, on the user's machine.

`cases` defines the measurements, `child` runs one in its own process, `run` starts these.
"""
