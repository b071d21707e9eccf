"""log p(x, z) of a Pyro model as a function of its latents, vectorised over chains and data points.

What samplers and grids need: all latent sites side by side as one vector of unconstrained reals for each datum, and
the log density there for each chain and datum.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from zoo.infer.pair import program
from zoo.infer.pieces import MAX_BYTES, bytes_of
from zoo.infer.terms import run
from zoo.parts.aside import streams_kept


class Site(NamedTuple):
    """A latent site: its columns in the vector of unconstrained coordinates, and how they become its value."""

    columns: slice
    unconstrained: torch.Size
    event: torch.Size
    transform: Any
    real: bool


class LogJoint:
    """log p(x_n, z_n) + log |dz_n / du_n| of each datum at unconstrained coordinates u_n, `(chains, batch, dim)`.

    Calling it gives `(chains, batch)`, in nats. Data are independent, so one gradient of the sum serves all chains and
    all data.

    Args:
        model: a Pyro model whose latent sites are continuous and stand in its batch plate.
        x, *args, **kwargs: its arguments.

    Raises:
        ValueError: no latent site, a discrete one, or one outside the batch plate; names the site.
    """

    def __init__(self, model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self.model, self.x, self.args, self.kwargs = model, x, args, kwargs
        with torch.no_grad(), streams_kept():
            trace = poutine.trace(program(model)).get_trace(x, *args, **kwargs)
        self.sites: dict[str, Site] = {}
        self.dim = 0
        self._bytes: int | None = None  # of one position of each datum
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["is_observed"]:
                continue
            self.sites[name] = self._site(name, site)
            self.dim = self.sites[name].columns.stop
        if not self.sites:
            raise ValueError("the model has no latent site: there is no posterior to sample")
        frames = [f for site in trace.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
        self._nesting = max(-f.dim for f in frames if f.vectorized)
        plate = next(f.name for f in frames if f.vectorized and f.dim == -1)  # of every latent, as `_site` has seen
        self._given = _Given(plate, {name: len(site.event) for name, site in self.sites.items()})
        self._given.values = {name: trace.nodes[name]["value"] for name in self.sites}
        self.dtype = next(iter(self._given.values.values())).dtype  # of the coordinates
        with torch.no_grad(), pyro.validation_enabled(False):
            # checks the pair, as long as the values have no chain axis
            run(model, self._given, (x, *args), kwargs, 1, point_mass=True)

    def _site(self, name: str, site: Any) -> Site:
        fn = site["fn"]
        plates = [f for f in site["cond_indep_stack"] if f.vectorized]
        if [(f.dim, f.size) for f in plates] != [(-1, len(self.x))]:
            raise ValueError(
                f"site {name!r}: stands in the plates {[(f.name, f.size) for f in plates]}; a posterior per datum "
                f"needs every latent in one batch plate of size {len(self.x)} at dim -1 (nuts_reference takes others)"
            )
        if fn.support.is_discrete:
            raise ValueError(f"site {name!r}: {type(fn).__name__} is discrete; sum it out or use the exact posterior")
        transform = biject_to(fn.support)
        unconstrained = torch.Size(transform.inverse_shape(fn.batch_shape + fn.event_shape)[1:])
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
        """Site values -> coordinates, the inverse of `constrain`."""
        parts = []
        for name, site in self.sites.items():
            u = site.transform.inv(values[name])
            parts.append(u.reshape(*u.shape[: u.dim() - len(site.unconstrained)], -1))
        return torch.cat(parts, -1)

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """Coordinates `(batch, dim)` as Pyro's parameters: site -> `(batch, *unconstrained)`."""
        return {n: u[..., site.columns].reshape(len(u), *site.unconstrained).clone() for n, site in self.sites.items()}

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        """The inverse of `unflatten`."""
        return torch.cat([parameters[name].reshape(len(self.x), -1) for name in self.sites], -1)

    @torch.no_grad()
    def prior(self, chains: int) -> Tensor:
        """Draws from the prior, in coordinates: `(chains, batch, dim)`."""
        with pyro.plate("num_particles", chains, dim=-1 - self._nesting):
            trace = poutine.trace(program(self.model)).get_trace(self.x, *self.args, **self.kwargs)
        shape = (chains, len(self.x))
        return self.unconstrain({n: trace.nodes[n]["value"].reshape(shape + s.event) for n, s in self.sites.items()})

    def __call__(self, u: Tensor) -> Tensor:
        chains = len(u)
        log_volume: Tensor | float = 0.0
        self._given.values = {}
        for name, site in self.sites.items():
            coordinates = u[..., site.columns].reshape(u.shape[:-1] + site.unconstrained)
            value = site.transform(coordinates)
            if not site.real:
                change = site.transform.log_abs_det_jacobian(coordinates, value)
                log_volume = log_volume + change.reshape(*u.shape[:-1], -1).sum(-1)
            inner = (1,) * (self._nesting - 1)  # plates inside the batch, of which latents have none
            self._given.values[name] = value.reshape(chains, *inner, *value.shape[1:]) if chains > 1 else value[0]
        # a divergent trajectory runs into NaN, which is an energy to reject and not an error
        with pyro.validation_enabled(False):
            found = run(self.model, self._given, (self.x, *self.args), self.kwargs, chains, point_mass=True)
        return found.log_weights + log_volume

    def gradient(self, u: Tensor, max_bytes: int | None = None) -> tuple[Tensor, Tensor]:
        """Value `(chains, batch)` and gradient `(chains, batch, dim)` at u; in pieces of about `max_bytes` if given."""
        if max_bytes is not None and len(u) > (points := self._points(u, max_bytes)):
            values, gradients = zip(*map(self.gradient, u.split(points)), strict=True)
            return torch.cat(values), torch.cat(gradients)
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = self(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    @torch.no_grad()
    def evaluate(self, u: Tensor, max_bytes: int = MAX_BYTES) -> Tensor:
        """The value at many positions `(points, batch, dim)`, without gradients, in pieces of about `max_bytes`."""
        return torch.cat([self(piece) for piece in u.split(self._points(u, max_bytes))])

    def _points(self, u: Tensor, max_bytes: int) -> int:
        """How many positions of each datum fit into `max_bytes`."""
        if self._bytes is None:
            with torch.no_grad():
                self._bytes = max(bytes_of(lambda: self(u[:2])) // min(2, len(u)), 1)
        return max(1, int(max_bytes // self._bytes))

    @property
    def events(self) -> dict[str, torch.Size]:
        """Site -> event shape."""
        return {name: site.event for name, site in self.sites.items()}


class _Given:
    """The guide that proposes given values with certainty: log q = 0, so the log weight is the log joint."""

    def __init__(self, plate: str, event_dims: dict[str, int]) -> None:
        self.plate, self.event_dims = plate, event_dims
        self.values: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        with pyro.plate(self.plate, len(x)):
            for name, event_dim in self.event_dims.items():
                value = self.values[name]
                pyro.sample(name, _Certain(value, event_dim=event_dim))


class _Certain(Delta):
    """A point mass scored only at its own point, where its log density is 0: the comparison is not worth a pass."""

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.batch_shape)


def entries(site: str, event: torch.Size) -> list[str]:
    """Names of the entries of one site: `z` for a scalar, `z[0]`, `z[3,1]` otherwise."""
    if not event:
        return [site]
    return [f"{site}[{','.join(map(str, i))}]" for i in product(*map(range, event))]


def flatten(values: dict[str, Tensor], leading: int = 2) -> Tensor:
    """Site values with `leading` axes before the event, side by side: `(..., batch, entries)`."""
    return torch.cat([v.reshape(*v.shape[:leading], -1) for v in values.values()], -1)
