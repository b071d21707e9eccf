"""Starts of a training that are found in the data."""
