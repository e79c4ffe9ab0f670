"""Memory and time of a method's loss, of an update and of a network call, on the user's machine.

`cases` says what is measured, `child` measures one case in a process of its own, `run` starts them.
"""
