"""The sites of a pair: which of them belong together, and the values that they may have."""
