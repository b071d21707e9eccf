"""Figures: each function returns a matplotlib `Figure`, made without pyplot, so that nothing is shown or stays open."""

from zoo.plots.bands import Band, draw_band, draw_points, draw_regions, plot_bands, plot_draws
from zoo.plots.checks import plot_coverage, plot_predictive, plot_ranks
from zoo.plots.curves import plot_elbo_history, plot_kl, plot_kl_history
from zoo.plots.images import plot_images, plot_reconstructions, plot_traversal
from zoo.plots.latents import plot_latents, plot_marginals, plot_pairs
from zoo.plots.overlay import plot_overlay
from zoo.plots.reliability import plot_reliability
from zoo.plots.rolls import plot_piano_rolls
from zoo.plots.series import plot_components, plot_residuals
from zoo.plots.sound import plot_waveforms, write_wav

__all__ = [
    "Band",
    "draw_band",
    "draw_points",
    "draw_regions",
    "plot_bands",
    "plot_components",
    "plot_coverage",
    "plot_draws",
    "plot_elbo_history",
    "plot_images",
    "plot_kl",
    "plot_kl_history",
    "plot_latents",
    "plot_marginals",
    "plot_overlay",
    "plot_pairs",
    "plot_piano_rolls",
    "plot_predictive",
    "plot_ranks",
    "plot_reconstructions",
    "plot_reliability",
    "plot_residuals",
    "plot_traversal",
    "plot_waveforms",
    "write_wav",
]
