"""Training: the loop, its refusals before the first step, its checkpoints."""
