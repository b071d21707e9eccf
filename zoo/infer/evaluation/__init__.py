"""Evaluation of a trained pair: log p(x), KL per site, active units, gaps; of sequences, by a particle filter too."""
