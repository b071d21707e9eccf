"""Evaluation of a trained pair."""
