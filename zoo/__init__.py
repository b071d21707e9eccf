"""Deep latent variable models as Pyro model/guide pairs."""

from zoo.lgssm import LGSSM
from zoo.mixture import DiagonalCovariance, FullCovariance, GaussianMixture, TiedCovariance
from zoo.ppca import PPCA
from zoo.vae import VAE

__all__ = ["LGSSM", "PPCA", "VAE", "DiagonalCovariance", "FullCovariance", "GaussianMixture", "TiedCovariance"]
