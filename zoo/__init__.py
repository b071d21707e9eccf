"""Deep latent variable models as Pyro model/guide pairs."""

from zoo.biva import BIVA
from zoo.dmm import DMM
from zoo.folders import load_pair, save_pair
from zoo.hierarchical import Hierarchical
from zoo.hmm import HMM
from zoo.lgssm import LGSSM
from zoo.mixture import GaussianMixture
from zoo.parts.covariances import DiagonalCovariance, FullCovariance, TiedCovariance
from zoo.ppca import PPCA
from zoo.srnn import SRNN
from zoo.storn import STORN
from zoo.vae import VAE
from zoo.vrnn import VRNN

__all__ = [
    "BIVA",
    "DMM",
    "HMM",
    "LGSSM",
    "PPCA",
    "SRNN",
    "STORN",
    "VAE",
    "VRNN",
    "DiagonalCovariance",
    "FullCovariance",
    "GaussianMixture",
    "Hierarchical",
    "TiedCovariance",
    "load_pair",
    "save_pair",
]
