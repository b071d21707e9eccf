"""Conditionals: modules whose call returns a distribution, event shape `(d,)`, for any leading axes.

Likelihoods are built as `Likelihood(in_features, data_dim, ...)` and called with features h. A model takes the
constructor, with settings by `functools.partial`, since only the model knows the width of its last hidden layer.
Priors are built by the user, called without arguments, and handed to the model as they are. Emissions of hidden Markov
models are handed over likewise, and called with states.
"""

from zoo.parts.conditionals.autoregressive import MADE, MAFPrior, PixelCNN
from zoo.parts.conditionals.bernoulli import Bernoulli
from zoo.parts.conditionals.class_prior import ClassPrior
from zoo.parts.conditionals.code_prior import CodePrior
from zoo.parts.conditionals.emissions import CategoricalEmission, NormalEmission, PoissonEmission
from zoo.parts.conditionals.flow_prior import FlowDensity, FlowPrior
from zoo.parts.conditionals.levels import Categorical, DiscretizedLogistic
from zoo.parts.conditionals.logit import Logit, LogitDensity
from zoo.parts.conditionals.mixture_prior import MixturePrior
from zoo.parts.conditionals.normal import MixtureOfNormals, Normal
from zoo.parts.conditionals.self_masking import SelfMasking
from zoo.parts.conditionals.spline_prior import SplinePrior
from zoo.parts.conditionals.standard_normal import StandardNormal

__all__ = [
    "MADE",
    "Bernoulli",
    "Categorical",
    "CategoricalEmission",
    "ClassPrior",
    "CodePrior",
    "DiscretizedLogistic",
    "FlowDensity",
    "FlowPrior",
    "Logit",
    "LogitDensity",
    "MAFPrior",
    "MixtureOfNormals",
    "MixturePrior",
    "Normal",
    "NormalEmission",
    "PixelCNN",
    "PoissonEmission",
    "SelfMasking",
    "SplinePrior",
    "StandardNormal",
]
