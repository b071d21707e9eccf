"""log p(x, z) of a Pyro model as a function of its latents, vectorised over chains and data points.

Samplers and grids see a model as a `LogJoint`: all latent sites side by side as one vector of unconstrained reals for
each datum, and the log density at such vectors for each chain and datum. Discrete latents y are summed out:
log p(x, z) = log sum_y p(x, y, z).

`pyro.infer.mcmc.util.initialize_model` gives the log density of one position, summed over the data. Samplers of many
posteriors need a number for each chain and datum, which `zoo.infer.terms` keeps apart.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, TorchDistribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from zoo.infer.call import Purpose, run
from zoo.infer.pieces import MAX_BYTES, bytes_of
from zoo.infer.sites.programs import program
from zoo.infer.sites.refusals import name_of
from zoo.parts.aside import streams_kept

__all__ = ["LogJoint", "Site", "entry_names", "flatten"]


_POINTS = Purpose(point_mass=True)


class Site(NamedTuple):
    """A latent site and the way from its unconstrained coordinates to its value.

    Attributes:
        columns: the site's columns in the vector of coordinates.
        unconstrained, event: shapes of the coordinates and of the value, for one datum.
        transform: coordinates -> value.
        real: the transform is the identity.
    """

    columns: slice
    unconstrained: torch.Size
    event: torch.Size
    transform: Any
    real: bool


class LogJoint:
    """log p(x_n, z_n) + log |dz_n / du_n| of each datum at unconstrained coordinates u_n, `(chains, batch, dim)`.

    Discrete latents are summed out; they have no coordinates. A call returns `(chains, batch)`, in nats. Data are
    independent, so that one gradient of the sum serves all chains and all data.

    Args:
        model: a Pyro model whose latent sites stand in its batch plate; one of them at least is continuous.
        x, *args, **kwargs: the model's arguments.

    Raises:
        ValueError: no continuous latent site, a discrete one whose values cannot be listed, or one outside the batch
            plate; names the site.
    """

    def __init__(self, model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self.model, self.x, self.args, self.kwargs = model, x, args, kwargs
        with torch.no_grad(), streams_kept():
            trace = poutine.trace(program(model)).get_trace(x, *args, **kwargs)
        self.sites: dict[str, Site] = {}
        listed: dict[str, _AnyValue] = {}  # discrete sites
        self.dim = 0
        # Measured at the first call that asks for pieces: models that are only walked through need no measurement.
        self._bytes: int | None = None  # of one position of each datum
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["is_observed"]:
                continue
            self._check_plates(name, site)
            if site["fn"].support.is_discrete:
                if not site["fn"].has_enumerate_support:
                    raise ValueError(
                        f"site {name!r}: {name_of(site['fn'])} is discrete and cannot list its values, which would be "
                        "summed out; use the exact posterior"
                    )
                listed[name] = _AnyValue(site["fn"])
                continue
            self.sites[name] = self._site(site["fn"])
            self.dim = self.sites[name].columns.stop
        if not self.sites:
            said = f": {', '.join(map(repr, listed))} is discrete and would be summed out" if listed else ""
            raise ValueError(f"the model has no continuous latent site{said}: there is no posterior density to sample")
        frames = [f for site in trace.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
        self._nesting = max(-f.dim for f in frames if f.vectorized)
        plate = next(f.name for f in frames if f.vectorized and f.dim == -1)  # of every latent, as `_site` has seen
        # One guide for all calls, whose values are replaced: a new guide would be a new pair, to be checked again.
        self._guide = _PointGuide(plate, {name: len(site.event) for name, site in self.sites.items()}, listed)
        self._guide.values = {name: trace.nodes[name]["value"] for name in self.sites}
        self.dtype = next(iter(self._guide.values.values())).dtype  # of the coordinates
        with torch.no_grad(), pyro.validation_enabled(False):
            # The pair is checked at its first run, here, where the values have no axis of chains yet.
            run(model, self._guide, (x, *args), kwargs, 1, _POINTS)

    def check_real(self, caller: str) -> None:
        """Refuses constrained sites, for methods that take coordinates for values.

        Raises:
            ValueError: names the first such site.
        """
        constrained = [name for name, site in self.sites.items() if not site.real]
        if constrained:
            raise ValueError(
                f"{caller}: site {constrained[0]!r}: constrained; this takes real latents, hmc_reference takes others"
            )

    def _check_plates(self, name: str, site: Any) -> None:
        plates = [f for f in site["cond_indep_stack"] if f.vectorized]
        if [(f.dim, f.size) for f in plates] != [(-1, len(self.x))]:
            raise ValueError(
                f"site {name!r}: stands in the plates {[(f.name, f.size) for f in plates]}; a posterior per datum "
                f"needs every latent in one batch plate of size {len(self.x)} at dim -1 (nuts_reference takes others)"
            )

    def _site(self, fn: Any) -> Site:
        transform = biject_to(fn.support)
        unconstrained = torch.Size(transform.inverse_shape(fn.batch_shape + fn.event_shape)[1:])
        # The identity comes as an empty composition, wrapped once for each `to_event`.
        inner = transform
        while isinstance(inner, IndependentTransform):
            inner = inner.base_transform
        real = isinstance(inner, ComposeTransform) and not inner.parts
        return Site(slice(self.dim, self.dim + unconstrained.numel()), unconstrained, fn.event_shape, transform, real)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Coordinates `(..., batch, dim)` -> site values `(..., batch, *event)`."""
        return {
            name: site.transform(u[..., site.columns].reshape(u.shape[:-1] + site.unconstrained))
            for name, site in self.sites.items()
        }

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Site values `(..., batch, *event)` -> coordinates `(..., batch, dim)`, the inverse of `constrain`."""
        parts = []
        for name, site in self.sites.items():
            u = site.transform.inv(values[name])
            parts.append(u.reshape(*u.shape[: u.dim() - len(site.unconstrained)], -1))
        return torch.cat(parts, -1)

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """Coordinates `(batch, dim)` as Pyro's parameters: site -> `(batch, *unconstrained)`."""
        return {n: u[..., site.columns].reshape(len(u), *site.unconstrained).clone() for n, site in self.sites.items()}

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        """Pyro's parameters as coordinates `(batch, dim)`, the inverse of `unflatten`."""
        return torch.cat([parameters[name].reshape(len(self.x), -1) for name in self.sites], -1)

    @torch.no_grad()
    def prior(self, chains: int) -> Tensor:
        """Draws from the prior, in coordinates: `(chains, batch, dim)`."""
        # One plate to the left of all others draws the chains in one run of the model.
        with pyro.plate("num_particles", chains, dim=-1 - self._nesting):
            trace = poutine.trace(program(self.model)).get_trace(self.x, *self.args, **self.kwargs)
        shape = (chains, len(self.x))
        return self.unconstrain({n: trace.nodes[n]["value"].reshape(shape + s.event) for n, s in self.sites.items()})

    def __call__(self, u: Tensor) -> Tensor:
        chains = len(u)
        log_volume: Tensor | float = 0.0
        self._guide.values = {}
        for name, site in self.sites.items():
            coordinates = u[..., site.columns].reshape(u.shape[:-1] + site.unconstrained)
            value = site.transform(coordinates)
            if not site.real:
                change = site.transform.log_abs_det_jacobian(coordinates, value)
                log_volume = log_volume + change.reshape(*u.shape[:-1], -1).sum(-1)
            # Plates inside the batch stand to its left, and the chains to the left of them: latents are in the batch
            # plate alone, so that they have axes of length 1 in between. One particle has no axis of particles.
            between = (1,) * (self._nesting - 1)
            self._guide.values[name] = value.reshape(chains, *between, *value.shape[1:]) if chains > 1 else value[0]
        # A divergent trajectory runs into NaN, which is an energy to reject and not an error.
        with pyro.validation_enabled(False):
            found = run(self.model, self._guide, (self.x, *self.args), self.kwargs, chains, _POINTS)
        # q of a discrete site cancels: the logarithm is that of the sum of p over its values
        return found.log_over_summed(found.log_weights) + log_volume

    def gradient(self, u: Tensor, max_bytes: int | None = None) -> tuple[Tensor, Tensor]:
        """Value `(chains, batch)` and gradient `(chains, batch, dim)` at u.

        Args:
            u: coordinates, `(chains, batch, dim)`.
            max_bytes: bound on the intermediate results of one piece; None: everything at once.
        """
        if max_bytes is not None and len(u) > (fitting := self._fitting(u, max_bytes)):
            values, gradients = zip(*map(self.gradient, u.split(fitting)), strict=True)
            return torch.cat(values), torch.cat(gradients)
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = self(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    @torch.no_grad()
    def evaluate(self, u: Tensor, max_bytes: int = MAX_BYTES) -> Tensor:
        """Values `(points, batch)` at many positions `(points, batch, dim)`, without gradients.

        Args:
            u: coordinates, `(points, batch, dim)`.
            max_bytes: bound on the intermediate results of one piece.
        """
        return torch.cat([self(piece) for piece in u.split(self._fitting(u, max_bytes))])

    def _fitting(self, u: Tensor, max_bytes: int) -> int:
        """The number of positions of each datum that fit into `max_bytes`."""
        if self._bytes is None:
            # Two positions, where there are two: with one, the axis of chains would be missing.
            with torch.no_grad():
                self._bytes = max(bytes_of(lambda: self(u[:2])) // min(2, len(u)), 1)
        return max(1, int(max_bytes // self._bytes))

    @property
    def events(self) -> dict[str, torch.Size]:
        """Site -> event shape."""
        return {name: site.event for name, site in self.sites.items()}


class _PointGuide:
    """A guide that proposes the given values with certainty: log q = 0, so that the log weight is the log joint.

    Args:
        plate: name of the batch plate.
        event_dims: of the continuous sites.
        discrete: proposals of the discrete sites, which are marked to be summed out.
    """

    def __init__(self, plate: str, event_dims: dict[str, int], discrete: dict[str, "_AnyValue"]) -> None:
        self.plate, self.event_dims, self.discrete = plate, event_dims, discrete
        self.values: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        with pyro.plate(self.plate, len(x)):
            for name, event_dim in self.event_dims.items():
                pyro.sample(name, _UnscoredPoint(self.values[name], event_dim=event_dim))
            for name, fn in self.discrete.items():
                pyro.sample(name, fn, infer={"enumerate": "parallel"})


class _AnyValue(TorchDistribution):
    """The uniform distribution over the values of a discrete one, none of which a posterior may rule out.

    Args:
        fn: can list its values.
    """

    has_enumerate_support = True
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, fn: Any, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        self.fn = fn
        self.values = fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape)
        super().__init__(batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.fn.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_AnyValue":
        return _AnyValue(self.fn, torch.Size(batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.values.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.values[torch.randint(len(self.values), (*sample_shape, *self.batch_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        return torch.full(batch, -math.log(len(self.values)), device=value.device)


class _UnscoredPoint(Delta):
    """A point mass that is asked for its log density at its own point alone, where it is 0."""

    def log_prob(self, x: Tensor) -> Tensor:
        # Delta compares x with its point, entry by entry: a pass over z that can have only one answer here.
        return x.new_zeros(self.batch_shape)


def entry_names(site: str, event: torch.Size) -> list[str]:
    """Names of the entries of one site: `z` for a scalar, `z[0]`, `z[3,1]` otherwise."""
    if not event:
        return [site]
    return [f"{site}[{','.join(map(str, i))}]" for i in product(*map(range, event))]


def flatten(values: dict[str, Tensor], leading: int = 2) -> Tensor:
    """Site values with `leading` axes before the event, side by side: `(..., batch, entries)`."""
    return torch.cat([v.reshape(*v.shape[:leading], -1) for v in values.values()], -1)
