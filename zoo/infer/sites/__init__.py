"""The sites of a pair: which there must be, and which values they may have."""
