"""The training loop for hosts without one of their own: Lightning, EMA, checkpoints, progress.

Nothing is imported here: Lightning takes seconds, and only a run needs it.
"""
