"""Training: the loop, one step, what is written along the way, and how a run is resumed."""
