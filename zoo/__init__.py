"""Deep latent variable models as Pyro model/guide pairs."""

from zoo.adgm import ADGM
from zoo.biva import BIVA
from zoo.density import Density
from zoo.dmm import DMM
from zoo.folders import load_pair, push_to_hub, save_pair
from zoo.gtmsm import GTMSM
from zoo.hierarchical import Hierarchical
from zoo.hmm import HMM
from zoo.kvae import KVAE
from zoo.lgssm import LGSSM
from zoo.m1m2 import M1M2
from zoo.m2 import M2
from zoo.mixture import GaussianMixture
from zoo.parts.covariances import DiagonalCovariance, FullCovariance, TiedCovariance
from zoo.parts.mixed_dynamics.dynamics import MixedDynamics
from zoo.parts.starts.components import start_at_components
from zoo.parts.walking.heading import HeadingStep
from zoo.parts.walking.linear import LinearStep
from zoo.parts.walking.stopping import StoppingStep
from zoo.ppca import PPCA
from zoo.shipped.shelf import pretrained
from zoo.srnn import SRNN
from zoo.storn import STORN
from zoo.vae import VAE
from zoo.vrnn import VRNN
from zoo.with_auxiliary import WithAuxiliary
from zoo.with_class import WithClass
from zoo.with_mask import WithMask

__all__ = [
    "ADGM",
    "BIVA",
    "DMM",
    "GTMSM",
    "HMM",
    "KVAE",
    "LGSSM",
    "M1M2",
    "M2",
    "PPCA",
    "SRNN",
    "STORN",
    "VAE",
    "VRNN",
    "Density",
    "DiagonalCovariance",
    "FullCovariance",
    "GaussianMixture",
    "HeadingStep",
    "Hierarchical",
    "LinearStep",
    "MixedDynamics",
    "StoppingStep",
    "TiedCovariance",
    "WithAuxiliary",
    "WithClass",
    "WithMask",
    "load_pair",
    "pretrained",
    "push_to_hub",
    "save_pair",
    "start_at_components",
]
