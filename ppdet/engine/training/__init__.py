"""Training: preparation, the loop, a single step, callbacks, checkpoints, and how a run is resumed."""
