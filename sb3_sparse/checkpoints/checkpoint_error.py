"""Errors of checkpoints that the user can mend."""


class CheckpointError(ValueError):
    """A run cannot go on from its checkpoints, or cannot have any; the message says why and what to do."""
