"""Starts of which nothing is known: `start` solves the first frames exactly, `moments` says what they tell."""
