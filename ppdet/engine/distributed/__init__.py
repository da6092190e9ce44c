"""Training and evaluation with several processes: joining, exchanging values, and ending together."""
