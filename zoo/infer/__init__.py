"""Inference for any Pyro model/guide pair: objectives, training, evaluation, and the check against a reference."""

from typing import TYPE_CHECKING, Any

from zoo.infer.calibration.calibration import Calibration, simulation_based_calibration
from zoo.infer.em import EMError, EMModel, EMResult, em
from zoo.infer.evaluation.draws import posterior_draws
from zoo.infer.evaluation.gaps import Gaps, gaps
from zoo.infer.evaluation.imputation import Imputation, ImputationDraws, impute, sample_imputation
from zoo.infer.evaluation.labels import classification_error
from zoo.infer.evaluation.latents import active_units, kl_per_site, kl_per_unit
from zoo.infer.evaluation.likelihood import LogLikelihood, bits_per_dim, log_likelihood
from zoo.infer.evaluation.particle_filter import smc_log_likelihood
from zoo.infer.evaluation.sequences import SequenceLikelihood, mask_of, sequence_log_likelihood
from zoo.infer.factors.best_code import mig, sap
from zoo.infer.factors.forests import DCI, dci
from zoo.infer.factors.shared_factor import beta_vae_score
from zoo.infer.factors.tables import FactorScores
from zoo.infer.objectives import (
    ELBO,
    IWELBO,
    MAP,
    RLOO,
    VIMCO,
    Objective,
    RenyiELBO,
    Scheduled,
    SemiSupervised,
    Tempered,
    TotalCorrelation,
)
from zoo.infer.reference.checked import NotAReference
from zoo.infer.reference.compare import FAIR, GOOD, Comparison, Limits, Verdict, compare
from zoo.infer.reference.grid import grid_reference
from zoo.infer.reference.hmc import hmc_reference
from zoo.infer.reference.nuts import nuts_reference
from zoo.infer.reference.reference import Reference, exact_reference
from zoo.infer.terms import Terms, terms
from zoo.infer.training.callbacks import Callback, Moment
from zoo.infer.training.checkpoint import load_model, save_model
from zoo.infer.training.fit import Fit, fit

if TYPE_CHECKING:
    from zoo.plots import (
        Band,
        draw_band,
        draw_points,
        draw_regions,
        plot_bands,
        plot_components,
        plot_coverage,
        plot_draws,
        plot_elbo_history,
        plot_images,
        plot_kl,
        plot_kl_history,
        plot_latents,
        plot_marginals,
        plot_overlay,
        plot_pairs,
        plot_piano_rolls,
        plot_predictive,
        plot_ranks,
        plot_reconstructions,
        plot_reliability,
        plot_residuals,
        plot_traversal,
        plot_waveforms,
        write_wav,
    )

__all__ = [
    "DCI",
    "ELBO",
    "FAIR",
    "GOOD",
    "IWELBO",
    "MAP",
    "RLOO",
    "VIMCO",
    "Band",
    "Calibration",
    "Callback",
    "Comparison",
    "EMError",
    "EMModel",
    "EMResult",
    "FactorScores",
    "Fit",
    "Gaps",
    "Imputation",
    "ImputationDraws",
    "Limits",
    "LogLikelihood",
    "Moment",
    "NotAReference",
    "Objective",
    "Reference",
    "RenyiELBO",
    "Scheduled",
    "SemiSupervised",
    "SequenceLikelihood",
    "Tempered",
    "Terms",
    "TotalCorrelation",
    "Verdict",
    "active_units",
    "beta_vae_score",
    "bits_per_dim",
    "classification_error",
    "compare",
    "dci",
    "draw_band",
    "draw_points",
    "draw_regions",
    "em",
    "exact_reference",
    "fit",
    "gaps",
    "grid_reference",
    "hmc_reference",
    "impute",
    "kl_per_site",
    "kl_per_unit",
    "load_model",
    "log_likelihood",
    "mask_of",
    "mig",
    "nuts_reference",
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
    "posterior_draws",
    "sample_imputation",
    "sap",
    "save_model",
    "sequence_log_likelihood",
    "simulation_based_calibration",
    "smc_log_likelihood",
    "terms",
    "write_wav",
]


def __getattr__(name: str) -> Any:
    # figures live in zoo.plots, and matplotlib, which takes most of a second to load, with them
    if name in __all__:
        import zoo.plots

        return getattr(zoo.plots, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
