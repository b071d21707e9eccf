"""Guides of trajectories."""
