"""Inference for any Pyro model/guide pair: objectives, training, evaluation, and the check against a reference posterior."""

from zoo.infer.log_weights import Terms, terms
from zoo.infer.objectives import ELBO, IWELBO, Objective, RenyiELBO, Tempered

__all__ = ["ELBO", "IWELBO", "Objective", "RenyiELBO", "Tempered", "Terms", "terms"]
