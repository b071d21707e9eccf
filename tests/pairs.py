"""The registry of pairs: name -> model, guide, a batch, the objectives that serve them, and the literature's names.

One row makes a pair part of every test of `tests/house` and of README's table (`make table`). Sizes are small:
the grid is about shapes, sites and gradients, not about fits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import guides
from zoo import (
    ADGM,
    BIVA,
    DMM,
    GTMSM,
    HMM,
    KVAE,
    LGSSM,
    M1M2,
    M2,
    SRNN,
    STORN,
    VAE,
    VRNN,
    Density,
    HeadingStep,
    Hierarchical,
    LinearStep,
    MixedDynamics,
    StoppingStep,
    WithAuxiliary,
    WithClass,
    WithMask,
)
from zoo.infer import ELBO, IWELBO, RLOO, VIMCO, Objective, RenyiELBO, Tempered, terms
from zoo.mixture import GaussianMixture
from zoo.parts.conditionals import (
    MADE,
    Bernoulli,
    Categorical,
    CodePrior,
    DiscretizedLogistic,
    FlowPrior,
    Logit,
    MAFPrior,
    MixtureOfNormals,
    MixturePrior,
    Normal,
    NormalEmission,
    PixelCNN,
    SelfMasking,
    SplinePrior,
)
from zoo.parts.hierarchy import GAUSSIAN
from zoo.parts.kalman import Parameters
from zoo.parts.mixed_dynamics import Velocity
from zoo.parts.networks import Maps, WithHead, mlp
from zoo.parts.walking import Rays
from zoo.ppca import PPCA

BATCH, DATA, LATENT, HIDDEN, PARTICLES, FRAMES, CLASSES, AUXILIARY = 5, 6, 3, (8,), 3, 4, 4, 2

#: word -> objective, with the particles that the tests use. The words stand in README's column "valid".
OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "elbo": partial(ELBO, PARTICLES),
    "analytic_kl": partial(ELBO, PARTICLES, analytic_kl=True),
    "sticking": partial(ELBO, PARTICLES, sticking=True),
    "iwelbo": partial(IWELBO, PARTICLES),
    "doubly": partial(IWELBO, PARTICLES, gradient="doubly"),
    "renyi": partial(RenyiELBO, 0.5, PARTICLES),
    "rloo": partial(RLOO, PARTICLES),
    "vimco": partial(VIMCO, PARTICLES),
    "vr-max": partial(RenyiELBO, -math.inf, PARTICLES),
    "tempered": lambda: Tempered(ELBO(PARTICLES), kl_weight=0.5, free_bits=0.01),
}


@dataclass(frozen=True)
class Pair:
    """A row.

    Attributes:
        model: makes the model.
        guide: makes the guide of a model.
        batch: makes the data, `(BATCH, data_dim)` or `(BATCH, FRAMES, data_dim)`, in the default dtype.
        code: model, guide and family as README prints them; an empty family means that the guide has none.
        refused: the words of OBJECTIVES that do not serve this pair. They must raise, and the error names the site.
        systems: what the literature calls this pair -> with which objective.
        evaluated: those of `refused` that are refused in training alone, and serve the pair without a gradient.
        further: arguments of `objective(model, guide)(x, ...)` besides x: `keywords`, in the default dtype.
        idle: beginning of the names of parameters that a bound with these arguments does not depend on.
        scores_foreign_values: whether log q can be had at values that the guide has not just drawn.
        builds_itself: everything exists after the constructor (not so for Pyro's autoguides).
        sampled_kl: log p - log q at a draw has a meaning in training mode (not so for relaxed codes under a one-hot
            prior, whose terms are those of evaluation mode).
    """

    model: Callable[[], nn.Module]
    guide: Callable[[Any], nn.Module]
    batch: Callable[[], Tensor]
    code: tuple[str, str, str]
    systems: Mapping[str, str]
    refused: frozenset[str] = frozenset()
    evaluated: frozenset[str] = frozenset()
    further: Mapping[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    scores_foreign_values: bool = True
    builds_itself: bool = True
    sampled_kl: bool = True

    @property
    def valid(self) -> list[str]:
        return [word for word in OBJECTIVES if word not in self.refused]

    @property
    def keywords(self) -> dict[str, Any]:
        return {n: v.to(torch.get_default_dtype()) if v.is_floating_point() else v for n, v in self.further.items()}

    @property
    def model_keywords(self) -> dict[str, Any]:
        """The keywords without row numbers, which are for guides with parameters for each row."""
        return {name: value for name, value in self.keywords.items() if name != "index"}

    def build(self, seed: int = 0) -> tuple[nn.Module, nn.Module, Tensor]:
        """Model, guide and data, the same for the same seed."""
        torch.manual_seed(seed)
        model = self.model()
        guide = self.guide(model)
        x = self.batch()
        if not self.builds_itself:
            pyro.clear_param_store()  # Pyro's autoguides all go by the name of their class
            terms(model, guide, x)
        return model, guide, x

    def build_scored(self, seed: int = 0) -> tuple[nn.Module, nn.Module, Tensor]:
        """As `build`, in a mode in which the pair has terms."""
        model, guide, x = self.build(seed)
        if not self.sampled_kl:
            model.eval(), guide.eval()
        return model, guide, x


def bits() -> Tensor:
    return (torch.rand(BATCH, DATA) < 0.5).to(torch.get_default_dtype())


def reals() -> Tensor:
    return torch.randn(BATCH, DATA)


def levels() -> Tensor:
    return torch.randint(4, (BATCH, DATA)).to(torch.get_default_dtype())


def frames_of_bits() -> Tensor:
    return (torch.rand(BATCH, FRAMES, DATA) < 0.5).to(torch.get_default_dtype())


def sequences() -> Tensor:
    return torch.randn(BATCH, FRAMES, DATA)


def lgssm() -> LGSSM:
    """Every field learned but for the covariance of the start; covariances differ from seed to seed."""
    root = torch.randn(DATA, DATA) / DATA
    values = {
        "initial_mean": torch.randn(LATENT),
        "transition_matrix": 0.5 * torch.randn(LATENT, LATENT),
        "transition_covariance": torch.diag(0.5 + torch.rand(LATENT)),
        "emission_matrix": torch.randn(DATA, LATENT),
        "emission_covariance": torch.eye(DATA) + root @ root.mT,
    }
    learned = {name: nn.Parameter(value) for name, value in values.items()}
    return LGSSM(Parameters, marginal=False, initial_covariance=torch.eye(LATENT), **learned)


def hmm(marginal: bool = True) -> HMM:
    """A hidden Markov model of three states that differ."""
    return HMM(3, NormalEmission(3, DATA), transition=torch.randn(3, 3).softmax(-1), marginal=marginal)


def kvae(**form: bool) -> KVAE:
    """A Kalman VAE on bits with small networks; components of A, C that differ, so that alpha has a gradient."""
    dynamics = MixedDynamics(AUXILIARY, LATENT, recurrent=4, start=Velocity(0.3))
    return KVAE(dynamics, mlp(AUXILIARY, HIDDEN), Bernoulli(HIDDEN[-1], DATA), DATA, **form)


def kalman_smoother(model: Any) -> guides.KalmanSmoother:
    encoder = mlp(DATA, HIDDEN)
    return guides.KalmanSmoother(model, encoder=encoder, context=HIDDEN[-1], family=guides.BoundedDiagonal)


ACTIONS = torch.randn(BATCH, FRAMES, AUXILIARY, generator=torch.Generator().manual_seed(0))


def gtmsm(step: Callable[[int, int], nn.Module], *, noise: float = 0.5) -> GTMSM:
    """A model of walks that memorises two of its four frames."""
    encoder = WithHead((DATA,), LATENT, partial(Normal, heteroscedastic=True), hidden=HIDDEN)
    emission = WithHead((LATENT,), DATA, Normal, hidden=HIDDEN)
    return GTMSM(step(AUXILIARY, 2), encoder, emission, DATA, LATENT, memorise=2, neighbours=2, noise=noise)


def room(latent_dim: int) -> GTMSM:
    """A model of walks in a room, whose pictures are of three columns of two pixels."""
    step = HeadingStep((0, 1.0), (0.5, 0))
    return GTMSM(step, memorise=2, noise=0.5, recall=Rays(Maps(2, 3), latent_dim, width=8, heads=2))


vae = partial(VAE, DATA, LATENT, HIDDEN)
amortized = partial(guides.Amortized, hidden=HIDDEN)
NO_CLOSED_KL = frozenset({"analytic_kl"})
NO_INVERSE = frozenset({"analytic_kl", "sticking", "doubly"})


def with_family(
    family: Callable[..., guides.Family], system: str, code: str, refused: frozenset[str] = NO_CLOSED_KL
) -> Pair:
    """A VAE on bits with another family."""
    return Pair(
        vae,
        partial(amortized, family=family),
        bits,
        ("VAE", "Amortized", code),
        {system: "ELBO()"},
        refused,
        scores_foreign_values=refused != NO_INVERSE,
    )


def with_likelihood(
    likelihood: Callable[[int, int], nn.Module], batch: Callable[[], Tensor], system: str, code: str
) -> Pair:
    """A VAE with another likelihood."""
    model = f"VAE(likelihood={code})"
    return Pair(
        partial(vae, likelihood=likelihood),
        amortized,
        batch,
        (model, "Amortized", "Diagonal"),
        {system: "ELBO(analytic_kl=True)"},
    )


def with_prior(prior: Callable[[], nn.Module], system: str, code: str) -> Pair:
    """A VAE on bits with another prior."""
    return Pair(
        lambda: vae(prior=prior()),
        amortized,
        bits,
        (f"VAE(prior={code}(...))", "Amortized", "Diagonal"),
        {system: "ELBO()"},
        NO_CLOSED_KL,
    )


def density(conditional: Callable[[], nn.Module], batch: Callable[[], Tensor], system: str, code: str) -> Pair:
    """A model without latents, whose bounds are all log p(x)."""
    return Pair(
        lambda: Density(DATA, conditional()),
        guides.Empty,
        batch,
        (f"Density({code})", "Empty", ""),
        {system: "ELBO()"},
        scores_foreign_values=False,  # there is no latent to be scored
    )


def inside() -> Tensor:
    return torch.rand(BATCH, DATA)


#: a decoder of pictures of 2 x 3 pixels
pixels = partial(PixelCNN, shape=(2, 3), channels=6, layers=2, kernel=3)


def with_sequences(guide: Callable[..., guides.SequenceGuide], family: str, system: str) -> Pair:
    """An LGSSM with an amortised guide."""
    options = {"family": getattr(guides, family), "hidden": HIDDEN, "recurrent": 7}
    return Pair(
        lgssm,
        partial(guide, **options),
        sequences,
        ("LGSSM(marginal=False)", guide.__name__, family),
        {system: "ELBO(analytic_kl=True)"},
    )


def deep(
    model: Callable[..., nn.Module],
    guide: Callable[..., guides.SequenceGuide],
    family: str,
    system: str,
    likelihood: Callable[[int, int], nn.Module] | None = None,
    *,
    recurrent: int = 7,
    refused: frozenset[str] = frozenset(),
    **settings: Any,
) -> Pair:
    """A deep model of sequences with an amortised guide; settings are the family's. `recurrent=0` is printed."""
    options = {"hidden": HIDDEN} if model is DMM else {"hidden": HIDDEN, "recurrent": 4}
    if model is DMM:
        options["transition_hidden"] = HIDDEN
    name = model.__name__
    if likelihood is not None:
        options["likelihood"] = likelihood
        name += f"(likelihood={getattr(likelihood, 'func', likelihood).__name__})"
    built = partial(getattr(guides, family), **settings)
    return Pair(
        partial(model, DATA, LATENT, **options),
        partial(guide, family=built, hidden=HIDDEN, recurrent=recurrent),
        frames_of_bits if likelihood is None else sequences,
        (name, guide.__name__ + ("" if recurrent else "(recurrent=0)"), family),
        {system: "ELBO()" if "analytic_kl" in refused else "ELBO(analytic_kl=True)"},
        refused,
    )


def levels_of_latents(
    guide: Callable[..., guides.HierarchyGuide],
    family: str,
    systems: Mapping[str, str],
    refused: frozenset[str] = frozenset(),
    *,
    skip: bool = False,
) -> Pair:
    """A chain of latents on bits, three levels."""
    hidden, name = ((7,), (6,), (5,)), "Hierarchical(skip=True)" if skip else "Hierarchical"
    return Pair(
        partial(Hierarchical, DATA, (LATENT, 2, 2), hidden, skip),
        partial(guide, hidden=hidden, family=getattr(guides, family)),
        bits,
        (name, guide.__name__, family),
        systems,
        refused,
    )


# log q(y | .) cancels in importance-weighted bounds, which would leave a classifier without a gradient
UNTRAINED = frozenset({"iwelbo", "doubly", "vimco"})


def with_classes(
    model: Callable[..., nn.Module],
    guide: Callable[..., guides.Guide],
    code: tuple[str, str, str],
    systems: Mapping[str, str],
    refused: frozenset[str] = frozenset(),
    **settings: Any,
) -> Pair:
    """A model with classes on bits, the classes being summed out."""
    return Pair(
        partial(model, DATA, LATENT, CLASSES, HIDDEN, **settings),
        partial(guide, hidden=HIDDEN),
        bits,
        code,
        systems,
        UNTRAINED | {"vr-max"} | refused,
        UNTRAINED - {"vimco"},
    )


def stacked(model: Any) -> nn.Module:
    """The guide of M1+M2."""
    first = guides.Amortized(model.m1, hidden=HIDDEN)
    return guides.StackedLabelled(model, first, guides.Labelled(model.m2, hidden=HIDDEN))


def side_by_side(model: Any) -> nn.Module:
    """Amortised guides of the two levels of a hierarchy, which do not see each other's draws; the upper level first."""
    upper, lower = (amortized(model, site=site, latent_dim=d) for site, d in (("z_2", 2), ("z_1", LATENT)))
    return guides.Factorised(upper, lower)


LABELS = torch.tensor([0, 3, 1, 1, 2])
MASK = torch.rand(BATCH, DATA, generator=torch.Generator().manual_seed(0)) < 0.7


def with_codes(
    family: str, systems: Mapping[str, str], refused: frozenset[str], *, sampled_kl: bool = True,
    relaxed: float | None = None, **settings: Any,
) -> Pair:  # fmt: skip
    """A VAE on bits whose latent is a code of two variables of three values; `relaxed` is the prior's temperature."""
    prior = "CodePrior(...)" if relaxed is None else "CodePrior(..., temperature=...)"
    shown = "".join(f"({name}={value})" for name, value in settings.items())
    return Pair(
        lambda: VAE(DATA, 6, HIDDEN, prior=CodePrior(2, 3, temperature=relaxed)),
        partial(amortized, family=partial(getattr(guides, family), categories=3, **settings)),
        bits,
        (f"VAE(prior={prior})", "Amortized", family + shown),
        systems,
        refused,
        sampled_kl=sampled_kl,
    )


ROWS = torch.tensor([7, 2, 5, 0, 8])  # of the data set, for guides with own parameters for each datum

PAIRS: Mapping[str, Pair] = {
    "vae": Pair(
        vae,
        amortized,
        bits,
        ("VAE", "Amortized", "Diagonal"),
        {
            "VAE (Kingma & Welling 2014; Rezende et al. 2014)": "ELBO(analytic_kl=True)",
            "Sticking the landing (Roeder et al. 2017)": "ELBO(sticking=True)",
            "IWAE (Burda et al. 2016)": "IWELBO(50)",
            "Doubly reparameterised IWAE (Tucker et al. 2019)": 'IWELBO(50, gradient="doubly")',
            "Rényi VAE (Li & Turner 2016)": "RenyiELBO(0.5, 50)",
            "VR-max (Li & Turner 2016)": "RenyiELBO(-math.inf, 50)",
            "β-VAE (Higgins et al. 2017)": "Tempered(ELBO(), kl_weight=4.0)",
            "Warm-up (Sønderby et al. 2016)": "Tempered(ELBO(), kl_weight=lambda step: min(1, step / 1e4))",
            "Free bits (Kingma et al. 2016)": "Tempered(ELBO(), free_bits=0.5, batch_mean=True)",
        },
    ),
    "vae-full-rank": with_family(
        guides.FullRank, "VAE, Gaussian posterior with full covariance", "FullRank", frozenset()
    ),
    "vae-mixture": with_family(guides.Mixture, "VAE, mixture posterior (Figurnov et al. 2018)", "Mixture"),
    "vae-planar": with_family(guides.Planar, "Planar flows (Rezende & Mohamed 2015)", "Planar", NO_INVERSE),
    "vae-radial": with_family(guides.Radial, "Radial flows (Rezende & Mohamed 2015)", "Radial", NO_INVERSE),
    "vae-iaf": with_family(
        partial(guides.IAF, num_flows=2, hidden=(8,), embedding=4), "VAE-IAF (Kingma et al. 2016)", "IAF"
    ),
    "vae-spline": with_family(
        partial(guides.Spline, num_flows=2, hidden=(8,), embedding=4, num_bins=3),
        "Neural spline flows (Durkan et al. 2019)",
        "Spline",
    ),
    "vae-normal": with_likelihood(Normal, reals, "VAE on real-valued data", "Normal"),
    "vae-categorical": with_likelihood(
        partial(Categorical, levels=4), levels, "VAE on grey levels, softmax", "Categorical"
    ),
    "vae-logistic": with_likelihood(
        partial(DiscretizedLogistic, levels=4),
        levels,
        "VAE on grey levels, as in Kingma et al. 2016",
        "DiscretizedLogistic",
    ),
    "vae-mixture-prior": with_prior(
        partial(MixturePrior, LATENT, components=2), "VAE with a mixture prior", "MixturePrior"
    ),
    "vae-flow-prior": with_prior(
        partial(FlowPrior, LATENT, num_flows=2, hidden=(8,)),
        "VAE with a flow prior (couplings: Dinh et al. 2017)",
        "FlowPrior",
    ),
    "pixel-vae": with_likelihood(pixels, bits, "PixelVAE (Gulrajani et al. 2017)", "PixelCNN"),
    "vlae": Pair(
        lambda: vae(likelihood=partial(pixels, layers=1), prior=MAFPrior(LATENT, num_flows=2, hidden=(8,))),
        amortized,
        bits,
        ("VAE(likelihood=PixelCNN(layers=1), prior=MAFPrior)", "Amortized", "Diagonal"),
        {"Variational lossy autoencoder, VLAE (Chen et al. 2017)": "ELBO()"},
        NO_CLOSED_KL,
    ),
    "density-flow": density(
        partial(FlowPrior, DATA, num_flows=2, hidden=(8,)), reals, "Coupling flow (Dinh et al. 2017)", "FlowPrior"
    ),
    "density-spline": density(
        lambda: Logit(SplinePrior(DATA, num_flows=2, hidden=(8,), num_bins=3)),
        inside,
        "Neural spline flow, couplings (Durkan et al. 2019), of pixels in (0, 1)",
        "Logit(SplinePrior)",
    ),
    "density-maf": density(
        partial(MAFPrior, DATA, num_flows=2, hidden=(8,)),
        reals,
        "Masked autoregressive flow (Papamakarios et al. 2017)",
        "MAFPrior",
    ),
    "density-made": density(partial(MADE, 0, DATA, hidden=(8,)), bits, "MADE (Germain et al. 2015)", "MADE"),
    "pixelcnn": density(
        lambda: pixels(0, DATA, levels=4), levels, "Gated PixelCNN (van den Oord et al. 2016)", "PixelCNN"
    ),
    "vae-jang": with_codes(
        "GumbelSoftmax",
        {
            "Gumbel-softmax codes (Jang et al. 2017)": "ELBO(analytic_kl=True)",
            "Gumbel-softmax codes, the temperature falling": "Scheduled(ELBO(analytic_kl=True), "
            "guide.family.temperature, lambda step: max(0.5, math.exp(-3e-5 * step)))",
        },
        frozenset(OBJECTIVES) - NO_CLOSED_KL,
        sampled_kl=False,
    ),
    "vae-straight-through": with_codes(
        "GumbelSoftmax",
        {"Straight-through Gumbel-softmax codes (Jang et al. 2017)": "ELBO(analytic_kl=True)"},
        frozenset(OBJECTIVES) - NO_CLOSED_KL,
        sampled_kl=False,
        hard=True,
    ),
    "vae-concrete": with_codes(
        "GumbelSoftmax", {"Concrete codes (Maddison et al. 2017)": "ELBO()"}, NO_CLOSED_KL, relaxed=0.5
    ),
    "vae-codes-rloo": with_codes(
        "OneHot",
        {
            "Codes by the leave-one-out score (Kool et al. 2019)": "RLOO(4)",
            "VIMCO (Mnih & Rezende 2016)": "VIMCO(4)",
        },
        frozenset(OBJECTIVES) - {"rloo", "vimco"},
    ),
    "cvae": Pair(
        partial(vae, condition_dim=CLASSES),
        amortized,
        bits,
        ("VAE(condition_dim=...)", "Amortized", "Diagonal"),
        {"Conditional VAE (Sohn et al. 2015)": "ELBO(analytic_kl=True)"},
        further={"y": LABELS},
    ),
    "vae-gaps": Pair(
        partial(vae, likelihood=Normal),
        partial(amortized, flags=True),
        reals,
        ("VAE(likelihood=Normal)", "Amortized(flags=True)", "Diagonal"),
        {"MIWAE, a mask given (Mattei & Frellsen 2019)": "IWELBO(50)"},
        further={"mask": MASK},
    ),
    "vae-per-datum": Pair(
        vae,
        partial(guides.PerDatum, num_data=9),
        bits,
        ("VAE", "PerDatum", "Diagonal"),
        {"Traditional variational inference (Hoffman et al. 2013)": "ELBO(analytic_kl=True)"},
        further={"index": ROWS},
    ),
    "vae-per-datum-iaf": Pair(
        vae,
        partial(guides.PerDatum, num_data=9, family=partial(guides.IAF, num_flows=2, hidden=(8,), embedding=4)),
        bits,
        ("VAE", "PerDatum", "IAF"),
        {"The best q of a family, for its approximation gap (Cremer et al. 2018)": "ELBO()"},
        NO_CLOSED_KL,
        further={"index": ROWS},
    ),
    "vae-auto-normal": Pair(
        vae,
        AutoNormal,
        bits,
        ("VAE", "pyro.infer.autoguide.AutoNormal", ""),
        {"Mean-field ADVI (Kucukelbir et al. 2017)": "ELBO()"},
        builds_itself=False,
    ),
    "hierarchical-bottom-up": levels_of_latents(
        guides.BottomUp,
        "Diagonal",
        {
            "Hierarchical VAE (Rezende et al. 2014; Sønderby et al. 2016)": "ELBO()",
            "Two-layer IWAE (Burda et al. 2016)": "IWELBO(50)",
        },
        NO_CLOSED_KL,
    ),
    "hierarchical-top-down": levels_of_latents(
        guides.TopDown,
        "Diagonal",
        {"Top-down hierarchical VAE (Kingma et al. 2016)": "ELBO(analytic_kl=True)"},
    ),
    "hierarchical-ladder": levels_of_latents(
        guides.Ladder,
        "PrecisionWeighted",
        {
            "Ladder VAE (Sønderby et al. 2016)": "Tempered(ELBO(), kl_weight=lambda step: min(1, step / 1e4))",
            "Ladder VAE with free bits for each level": "Tempered(ELBO(), free_bits=0.5)",
        },
    ),
    "hierarchical-skip-top-down": levels_of_latents(
        guides.TopDown, "Diagonal", {"LVAE+ (Maaløe et al. 2019)": "Tempered(ELBO(), free_bits=2.0)"}, skip=True
    ),
    "hierarchical-factorised": Pair(
        lambda: Hierarchical(DATA, (LATENT, 2), ((7,), (6,))),
        side_by_side,
        bits,
        ("Hierarchical", "Factorised(Amortized, Amortized)", "Diagonal"),
        {"Fully factorised posterior of a hierarchy (Saul et al. 1996)": "ELBO(analytic_kl=True)"},
    ),
    "hierarchical-conditional": Pair(
        lambda: Hierarchical(DATA, (LATENT, 2), ((7,), (6,)), condition_dim=CLASSES),
        partial(guides.TopDown, hidden=((7,), (6,)), flags=True),
        bits,
        ("Hierarchical(condition_dim=...)", "TopDown(flags=True)", "Diagonal"),
        {"Conditional hierarchy, a mask and classes given": "ELBO(analytic_kl=True)"},
        further={"y": LABELS, "mask": MASK},
    ),
    "pixel-vae-hierarchical": Pair(
        lambda: Hierarchical(DATA, (LATENT, 2), ((7,), (6,)), likelihood=pixels),
        partial(guides.TopDown, hidden=((7,), (6,))),
        bits,
        ("Hierarchical(likelihood=PixelCNN)", "TopDown", "Diagonal"),
        {"PixelVAE with levels of latents (Gulrajani et al. 2017)": "ELBO(analytic_kl=True)"},
    ),
    "biva": Pair(
        partial(BIVA, DATA, (LATENT, 2), ((7,), (6,))),
        partial(guides.Bidirectional, hidden=((7,), (7,), (6,))),
        bits,
        ("BIVA", "Bidirectional", "Diagonal"),
        {"BIVA (Maaløe et al. 2019)": "Tempered(ELBO(), free_bits=2.0)"},
        NO_CLOSED_KL,
    ),
    "m2": with_classes(
        M2,
        guides.Labelled,
        ("M2", "Labelled", "Diagonal"),
        {"M2 (Kingma et al. 2014), rows without a label": "ELBO()"},
    ),
    "m2-labelled": Pair(
        partial(M2, DATA, LATENT, CLASSES, HIDDEN),
        partial(guides.Labelled, hidden=HIDDEN),
        bits,
        ("M2", "Labelled", "Diagonal"),
        {"Conditional VAE: M2 with all labels (Kingma et al. 2014; Sohn et al. 2015)": "ELBO(analytic_kl=True)"},
        further={"y": LABELS},
        idle=("guide.logits.",),
    ),
    "m1m2": Pair(
        lambda: M1M2(vae(), M2(LATENT, 2, CLASSES, HIDDEN, likelihood=GAUSSIAN)),
        stacked,
        bits,
        ("M1M2", "StackedLabelled", "Diagonal"),
        {"M1+M2 (Kingma et al. 2014)": "ELBO()"},
        UNTRAINED | {"vr-max", "analytic_kl"},
        UNTRAINED - {"vimco"},
    ),
    "biva-labels": Pair(
        lambda: WithClass(BIVA(DATA, (LATENT, 2), ((7,), (6,)), condition_dim=CLASSES)),
        lambda model: guides.Labelled(
            model, hidden=HIDDEN, levels=guides.Bidirectional(model.inner, hidden=((7,), (7,), (6,)))
        ),
        bits,
        ("WithClass(BIVA)", "Labelled(Bidirectional)", "Diagonal"),
        {"Semi-supervised BIVA (Maaløe et al. 2019), rows without a label": "Tempered(ELBO(), free_bits=2.0)"},
        UNTRAINED | {"vr-max"} | NO_CLOSED_KL,
        UNTRAINED - {"vimco"},
    ),
    "adgm": with_classes(
        ADGM,
        guides.Auxiliary,
        ("ADGM", "Auxiliary", "Diagonal"),
        {"ADGM (Maaløe et al. 2016)": "ELBO()"},
        NO_CLOSED_KL,
        auxiliary_dim=AUXILIARY,
    ),
    "sdgm": with_classes(
        ADGM,
        guides.Auxiliary,
        ("ADGM(skip=True)", "Auxiliary", "Diagonal"),
        {"SDGM (Maaløe et al. 2016)": "ELBO()"},
        NO_CLOSED_KL,
        auxiliary_dim=AUXILIARY,
        skip=True,
    ),
    "vae-auxiliary": Pair(
        lambda: WithAuxiliary(vae(), WithHead((DATA, LATENT), AUXILIARY, GAUSSIAN, HIDDEN)),
        partial(guides.Auxiliary, hidden=HIDDEN),
        bits,
        ("WithAuxiliary(VAE)", "Auxiliary", "Diagonal"),
        {"Hierarchical variational model, auxiliary VAE (Ranganath et al. 2016; Maaløe et al. 2016)": "ELBO()"},
        NO_CLOSED_KL,
    ),
    "vae-with-mask": Pair(
        lambda: WithMask(vae(likelihood=Normal), SelfMasking(DATA, sign=-1)),
        lambda model: guides.PriorBelow(amortized(model.inner), sites=["x_missing"], model=model),
        reals,
        ("WithMask(VAE)", "PriorBelow(Amortized)", "Diagonal"),
        {"not-MIWAE, a mask given (Ipsen et al. 2021)": "IWELBO(50)"},
        further={"mask": MASK},
    ),
    "ppca-exact": Pair(
        partial(PPCA, DATA, LATENT),
        guides.Exact,
        reals,
        ("PPCA", "Exact", ""),
        {"Probabilistic PCA (Tipping & Bishop 1999)": "em, maximum_likelihood"},
    ),
    "ppca-amortized": Pair(
        partial(PPCA, DATA, LATENT),
        partial(guides.Amortized, hidden=(), family=guides.FullRank),
        reals,
        ("PPCA", "Amortized(hidden=())", "FullRank"),
        {"Linear VAE; can reach the exact posterior": "ELBO(analytic_kl=True)"},
    ),
    "lgssm-exact": Pair(
        lgssm,
        guides.Exact,
        sequences,
        ("LGSSM(marginal=False)", "Exact", ""),
        {"Linear-Gaussian state space model (Kalman 1960), EM (Shumway & Stoffer 1982)": "em, maximum_likelihood"},
        NO_CLOSED_KL,
    ),
    "lgssm-auto-normal": Pair(
        lgssm,
        AutoNormal,
        sequences,
        ("LGSSM(marginal=False)", "pyro.infer.autoguide.AutoNormal", ""),
        {"Mean-field variational Kalman smoother": "ELBO()"},
        NO_CLOSED_KL,
        builds_itself=False,
    ),
    "lgssm-mean-field": with_sequences(
        guides.MeanField, "Diagonal", "Factorised inference network (MF-LR: Krishnan et al. 2017), linear data"
    ),
    "lgssm-filter": with_sequences(
        guides.Filter, "Residual", "Amortised filter beside Kalman's; how far it stays behind is computed"
    ),
    "lgssm-smoother": with_sequences(
        guides.Smoother, "PrecisionWeighted", "Amortised smoother (DKS: Krishnan et al. 2017), which can be exact"
    ),
    "mixed-dynamics-exact": Pair(
        partial(MixedDynamics, DATA, LATENT, recurrent=4),
        guides.Exact,
        sequences,
        ("MixedDynamics", "Exact", ""),
        {"Locally linear dynamics, mixed by a recurrent network (Fraccaro et al. 2017)": "ELBO()"},
        NO_CLOSED_KL,
    ),
    "kvae": Pair(
        kvae,
        kalman_smoother,
        frames_of_bits,
        ("KVAE", "KalmanSmoother", "BoundedDiagonal"),
        {
            "Kalman VAE (Fraccaro et al. 2017)": "ELBO()",
            "Kalman VAE, reconstruction weight 0.3 as in its code": "Tempered(ELBO(), kl_weight=1 / 0.3)",
        },
        NO_CLOSED_KL,
    ),
    "kvae-joint": Pair(
        partial(kvae, marginal=False),
        kalman_smoother,
        frames_of_bits,
        ("KVAE(marginal=False)", "KalmanSmoother", "BoundedDiagonal"),
        {"Kalman VAE with missing frames": "ELBO()"},
        NO_CLOSED_KL,
    ),
    "gtmsm": Pair(
        partial(gtmsm, LinearStep),
        guides.Remembering,
        sequences,
        ("GTMSM(LinearStep(...), ...)", "Remembering", ""),
        {"GTM-SM without walls (Fraccaro et al. 2018)": "ELBO()"},
        NO_CLOSED_KL,
        further={"u": ACTIONS},
    ),
    "gtmsm-walls": Pair(
        partial(gtmsm, StoppingStep),
        partial(guides.Watching, noise=0.5),
        sequences,
        ("GTMSM(StoppingStep(...), ...)", "Watching", ""),
        {"GTM-SM with walls": "ELBO()"},
        NO_CLOSED_KL,
        further={"u": ACTIONS},
    ),
    "gtmsm-room": Pair(
        partial(room, 0),
        guides.Remembering,
        sequences,
        ("GTMSM(HeadingStep(...), recall=Rays(...))", "Remembering", ""),
        {"GTM-SM in a room (Fraccaro et al. 2018), by rays": "ELBO()"},
        further={"u": ACTIONS},
    ),
    "gtmsm-room-codes": Pair(
        partial(room, LATENT),
        guides.Remembering,
        sequences,
        ("GTMSM(HeadingStep(...), recall=Rays(..., latent_dim))", "Remembering", ""),
        {"GTM-SM in a room, with a code": "ELBO(analytic_kl=True)"},
        further={"u": ACTIONS},
    ),
    "hmm": Pair(
        hmm,
        guides.Empty,
        sequences,
        ("HMM", "Empty", ""),
        {"Hidden Markov model (Baum et al. 1970; Rabiner 1989)": "em, maximum_likelihood, ELBO()"},
        scores_foreign_values=False,  # there is no latent to be scored
    ),
    "hmm-path": Pair(
        partial(hmm, marginal=False),
        guides.Exact,
        sequences,
        ("HMM(marginal=False)", "Exact", ""),
        {"Hidden Markov model with its paths: exact draws, Viterbi (1967)": "em"},
        frozenset(OBJECTIVES) - {"rloo", "vimco"},  # a discrete latent has no path for a gradient
    ),
    "dmm-mean-field": deep(DMM, guides.MeanField, "Diagonal", "Deep Markov model, MF-LR (Krishnan et al. 2017)"),
    "dmm-filter": deep(DMM, guides.Filter, "Diagonal", "Deep Markov model, ST-L (Krishnan et al. 2017)"),
    "dmm-smoother": deep(DMM, guides.Smoother, "Diagonal", "Deep Markov model, DKS (Krishnan et al. 2017)"),
    "dmm-smoother-iaf": deep(
        DMM,
        guides.Smoother,
        "IAF",
        "Deep Markov model with IAF (Pyro's example)",
        refused=NO_CLOSED_KL,
        num_flows=2,
        hidden=(8,),
        embedding=4,
    ),
    "storn-filter": deep(STORN, guides.Filter, "Diagonal", "STORN (Bayer & Osendorfer 2014); q sees h_(t-1) too"),
    "vrnn-filter": deep(VRNN, guides.Filter, "Diagonal", "VRNN (Chung et al. 2015)", recurrent=0),
    "vrnn-gauss": deep(VRNN, guides.Filter, "Diagonal", "VRNN-Gauss (Chung et al. 2015)", Normal, recurrent=0),
    "vrnn-gmm": deep(
        VRNN,
        guides.Filter,
        "Diagonal",
        "VRNN-GMM (Chung et al. 2015)",
        partial(MixtureOfNormals, num_components=2),
        recurrent=0,
    ),
    "srnn-filter": deep(SRNN, guides.Filter, "Diagonal", "SRNN filt (Fraccaro et al. 2016)", recurrent=0),
    "srnn-filter-residual": deep(
        SRNN, guides.Filter, "Residual", "SRNN filt + Res_q (Fraccaro et al. 2016)", recurrent=0
    ),
    "srnn-smoother": deep(SRNN, guides.Smoother, "Diagonal", "SRNN smooth (Fraccaro et al. 2016)"),
    "srnn-smoother-residual": deep(SRNN, guides.Smoother, "Residual", "SRNN smooth + Res_q (Fraccaro et al. 2016)"),
    "mixture-exact": Pair(
        partial(GaussianMixture, DATA, 2),
        partial(guides.Exact, site="k"),
        reals,
        ("GaussianMixture", 'Exact(site="k")', ""),
        {"Mixture of Gaussians, EM (Dempster et al. 1977)": "em"},
        frozenset({"vr-max"}),  # k is summed out, so that every other bound is log p
    ),
}
