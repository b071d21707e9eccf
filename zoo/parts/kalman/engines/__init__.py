"""Engines of the Kalman recursions."""
