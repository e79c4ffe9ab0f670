"""Memory, time and error of the loss, of an update and of a network call, each in its own process.

`cases` says what is measured, `child` measures one case, `sweep` starts a child for each.
"""
