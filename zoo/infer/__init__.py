"""Inference for any Pyro model/guide pair: objectives, training, evaluation, and the check against a reference."""

from zoo.infer.checkpoint import load_model, save_model
from zoo.infer.compare import FAIR, GOOD, Comparison, Limits, Verdict, compare
from zoo.infer.em import EMError, EMModel, EMResult, em
from zoo.infer.evaluate import LogLikelihood, active_units, bits_per_dim, kl_per_site, log_likelihood
from zoo.infer.fit import Fit, fit
from zoo.infer.gaps import Gaps, gaps
from zoo.infer.hmc import hmc_reference
from zoo.infer.log_weights import Terms, terms
from zoo.infer.nuts import NotAReference, nuts_reference
from zoo.infer.objectives import ELBO, IWELBO, MAP, Objective, RenyiELBO, Tempered
from zoo.infer.overlay import plot_overlay
from zoo.infer.particle_filter import smc_log_likelihood
from zoo.infer.plots import plot_elbo_history, plot_images, plot_kl, plot_reconstructions
from zoo.infer.reference import Reference, exact_reference, grid_reference
from zoo.infer.sequence_plots import plot_piano_rolls, plot_waveforms, write_wav
from zoo.infer.sequences import SequenceLikelihood, mask_of, sequence_log_likelihood
from zoo.infer.trajectory_plots import Band, draw_band, draw_points, draw_regions, plot_bands, plot_draws

__all__ = [
    "ELBO",
    "FAIR",
    "GOOD",
    "IWELBO",
    "MAP",
    "Band",
    "Comparison",
    "EMError",
    "EMModel",
    "EMResult",
    "Fit",
    "Gaps",
    "Limits",
    "LogLikelihood",
    "NotAReference",
    "Objective",
    "Reference",
    "RenyiELBO",
    "SequenceLikelihood",
    "Tempered",
    "Terms",
    "Verdict",
    "active_units",
    "bits_per_dim",
    "compare",
    "draw_band",
    "draw_points",
    "draw_regions",
    "em",
    "exact_reference",
    "fit",
    "gaps",
    "grid_reference",
    "hmc_reference",
    "kl_per_site",
    "load_model",
    "log_likelihood",
    "mask_of",
    "nuts_reference",
    "plot_bands",
    "plot_draws",
    "plot_elbo_history",
    "plot_images",
    "plot_kl",
    "plot_overlay",
    "plot_piano_rolls",
    "plot_reconstructions",
    "plot_waveforms",
    "save_model",
    "sequence_log_likelihood",
    "smc_log_likelihood",
    "terms",
    "write_wav",
]
