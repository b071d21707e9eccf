"""Deep latent variable models as Pyro model/guide pairs."""

from zoo.vae import VAE

__all__ = ["VAE"]
