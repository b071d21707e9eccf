"""One step of a training."""
