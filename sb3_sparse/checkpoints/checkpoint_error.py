"""What keeps a run from writing checkpoints or going on from them, and can be mended by whoever started it."""


class CheckpointError(ValueError):
    """A run cannot go on from its checkpoints, or cannot have any; the message says why and what to do."""
