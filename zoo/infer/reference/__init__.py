"""References that a guide is compared with, and the comparison."""
