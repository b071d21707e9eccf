"""Training: the loop, what it refuses beforehand, its checkpoints."""
