"""Exact recursions over time, of Kalman filters and Markov chains alike: their engines, and their first derivatives."""
