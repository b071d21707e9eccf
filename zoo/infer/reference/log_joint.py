"""log p(x, z) of a Pyro model as a function of its latents, vectorised over chains and data points.

Samplers and grids see a model as a `LogJoint`: all latent sites side by side as one vector of unconstrained reals for
each datum, and the log density at such vectors for each chain and datum. Discrete latents y are summed out:
log p(x, z) = log sum_y p(x, y, z).

Where a latent stands outside the batch plate, the data share its value, and all latents of all data have one joint
posterior: one vector, and one log density, as if the data were a single datum (`LogJoint.joint`).

`pyro.infer.mcmc.util.initialize_model` gives the log density of one position, summed over the data. Samplers of many
posteriors need a number for each chain and datum, which `zoo.infer.terms` keeps apart.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from zoo.infer.call import Purpose, run
from zoo.infer.pieces import MAX_BYTES, bytes_of
from zoo.infer.sites.points import AnyValue, PointGuide
from zoo.infer.sites.programs import program
from zoo.infer.sites.refusals import name_of
from zoo.parts.aside import streams_kept
from zoo.parts.distributions.circle import latent_support
from zoo.parts.door import refuse_unknown

__all__ = ["LogJoint", "Site", "entry_names", "flatten"]


_POINTS = Purpose(point_mass=True, outside=True)


class Site(NamedTuple):
    """A latent site and the way from its unconstrained coordinates to its value.

    Attributes:
        columns: the site's columns in the vector of coordinates.
        unconstrained, event: shapes of the coordinates and of the value, for one datum; in a joint posterior those of
            the whole site, plates included.
        transform: coordinates -> value.
        real: the transform is the identity.
        frames: the plates of the site.
    """

    columns: slice
    unconstrained: torch.Size
    event: torch.Size
    transform: Any
    real: bool
    frames: list[Any]


class LogJoint:
    """log p(x_n, z_n) + log |dz_n / du_n| of each datum at unconstrained coordinates u_n, `(chains, batch, dim)`.

    In a joint posterior `batch` is 1.

    Discrete latents are summed out; they have no coordinates. A call returns `(chains, batch)`, in nats. Data are
    independent, so that one gradient of the sum serves all chains and all data.

    Args:
        model: a Pyro model, one of whose latent sites at least is continuous.
        x, *args, **kwargs: the model's arguments.

    Attributes:
        joint: True if a latent stands outside the batch plate.
        size: number of posteriors: 1 if they are joint, else that of the data.

    Raises:
        ValueError: no continuous latent site, a discrete one whose values cannot be listed, or one in a plate inside
            the batch plate; names the site.
    """

    def __init__(self, model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self.model, self.x, self.args, self.kwargs = model, x, args, kwargs
        refuse_unknown(model, kwargs)
        with torch.no_grad(), streams_kept():
            trace = poutine.trace(program(model)).get_trace(x, *args, **kwargs)
        self.sites: dict[str, Site] = {}
        listed: dict[str, AnyValue] = {}  # discrete sites
        self.dim = 0
        latents = [s for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"]]
        self.joint = any(_outside(site, len(x)) for site in latents if not site_is_subsample(site))
        self.size = 1 if self.joint else len(x)
        # Measured at the first call that asks for pieces: models that are only walked through need no measurement.
        self._bytes: int | None = None  # of one position of each datum
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["is_observed"]:
                continue
            if not self.joint:
                self._check_plates(name, site)
            if site["fn"].support.is_discrete:
                if not site["fn"].has_enumerate_support:
                    raise ValueError(
                        f"site {name!r}: {name_of(site['fn'])} is discrete and cannot list its values, which would be "
                        "summed out; use the exact posterior"
                    )
                listed[name] = AnyValue(site["fn"])
                continue
            self.sites[name] = self._site(site)
            self.dim = self.sites[name].columns.stop
        if not self.sites:
            said = f": {', '.join(map(repr, listed))} is discrete and would be summed out" if listed else ""
            raise ValueError(f"the model has no continuous latent site{said}: there is no posterior density to sample")
        frames = [f for site in trace.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
        self._nesting = max(-f.dim for f in frames if f.vectorized)
        # One guide for all calls, whose values are replaced: a new guide would be a new pair, to be checked again.
        dims = {name: trace.nodes[name]["fn"].event_dim for name in self.sites}
        places = {name: _plates(trace.nodes[name]) for name in (*self.sites, *listed)}
        self._guide = PointGuide(places, dims, listed)
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
        plates = _plates(site)
        if [(f.dim, f.size) for f in plates] != [(-1, len(self.x))]:
            raise ValueError(
                f"site {name!r}: stands in the plates {[(f.name, f.size) for f in plates]}; a posterior per datum "
                f"needs every latent in one batch plate of size {len(self.x)} at dim -1 (nuts_reference takes others)"
            )

    def _site(self, site: Any) -> Site:
        fn = site["fn"]
        transform = biject_to(latent_support(fn))
        # of a joint posterior the plates are part of its one datum
        skip, event = (0, fn.batch_shape + fn.event_shape) if self.joint else (1, fn.event_shape)
        unconstrained = torch.Size(transform.inverse_shape(fn.batch_shape + fn.event_shape)[skip:])
        # The identity comes as an empty composition, wrapped once for each `to_event`.
        inner = transform
        while isinstance(inner, IndependentTransform):
            inner = inner.base_transform
        real = isinstance(inner, ComposeTransform) and not inner.parts
        columns = slice(self.dim, self.dim + unconstrained.numel())
        return Site(columns, unconstrained, event, transform, real, _plates(site))

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Coordinates `(..., batch, dim)` -> site values `(..., batch, *event)`."""
        return {name: _mapped(site, u)[1] for name, site in self.sites.items()}

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Site values `(..., batch, *event)` -> coordinates `(..., batch, dim)`, the inverse of `constrain`."""
        parts = []
        for name, site in self.sites.items():
            u = site.transform.inv(values[name])
            parts.append(u.reshape(*u.shape[: u.dim() - len(site.unconstrained)], -1))
        return torch.cat(parts, -1)

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """Coordinates `(batch, dim)` as Pyro's parameters: site -> `(batch, *unconstrained)`, joint `unconstrained`."""
        rows = () if self.joint else (len(u),)
        return {n: u[..., site.columns].reshape((*rows, *site.unconstrained)).clone() for n, site in self.sites.items()}

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        """Pyro's parameters as coordinates `(batch, dim)`, the inverse of `unflatten`."""
        return torch.cat([parameters[name].reshape(self.size, -1) for name in self.sites], -1)

    @torch.no_grad()
    def prior(self, chains: int) -> Tensor:
        """Draws from the prior, in coordinates: `(chains, batch, dim)`.

        Raises:
            ValueError: the program fails with several values of a latent that stands outside the batch plate.
        """
        # One plate to the left of all others draws the chains in one run of the model.
        try:
            with pyro.plate("num_particles", chains, dim=-1 - self._nesting):
                trace = poutine.trace(program(self.model)).get_trace(self.x, *self.args, **self.kwargs)
        except (RuntimeError, IndexError) as error:
            if not self.joint:
                raise
            raise ValueError(
                f"site {next(iter(self.sites))!r}: the program fails with several values of its latents in front of "
                f"the plates, (K, 1, ...) of one outside the batch plate "
                f"({str(error).splitlines()[0]}); let it broadcast, "
                "or take nuts_reference"
            ) from error
        shape = (chains, self.size)
        return self.unconstrain({n: trace.nodes[n]["value"].reshape(shape + s.event) for n, s in self.sites.items()})

    def __call__(self, u: Tensor) -> Tensor:
        chains = len(u)
        self._guide.values = {}
        log_volume = u.new_zeros(u.shape[:-1])
        for name, site in self.sites.items():
            coordinates, value = _mapped(site, u)
            log_volume = log_volume + _volume(site, coordinates, value)
            # The plates that a latent does not stand in are axes of length 1 between the chains and its own. One
            # particle has no axis of particles.
            own = value.shape[2 if self.joint else 1 :]
            between = (1,) * (self._nesting - max((-f.dim for f in site.frames), default=0))
            self._guide.values[name] = value.reshape((*((chains, *between) if chains > 1 else ()), *own))
        # A divergent trajectory runs into NaN, which is an energy to reject and not an error.
        with pyro.validation_enabled(False):
            found = run(self.model, self._guide, (self.x, *self.args), self.kwargs, chains, _POINTS)
        # q of a discrete site cancels: the logarithm is that of the sum of p over its values
        log_p = found.log_over_summed(found.log_weights)
        if self.joint:
            log_p = (log_p.sum(-1) + found.outside_weights).unsqueeze(-1)
        return log_p + log_volume

    def log_volume(self, u: Tensor) -> Tensor:
        """log |dz / du| of each datum at coordinates `(..., batch, dim)`, `(..., batch)`."""
        total = u.new_zeros(u.shape[:-1])
        for site in self.sites.values():
            total = total + _volume(site, *_mapped(site, u))
        return total

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


def _mapped(site: Site, u: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates and the value of one site at `(..., batch, dim)`."""
    coordinates = u[..., site.columns].reshape(u.shape[:-1] + site.unconstrained)
    return coordinates, site.transform(coordinates)


def _volume(site: Site, coordinates: Tensor, value: Tensor) -> Tensor | float:
    """log |dz / du| of one site, `(..., batch)`."""
    if site.real:
        return 0.0
    change = site.transform.log_abs_det_jacobian(coordinates, value)
    return change.reshape(*coordinates.shape[: coordinates.dim() - len(site.unconstrained)], -1).sum(-1)


def _plates(site: Any) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _outside(site: Any, size: int) -> bool:
    """Tells whether a site stands in no plate of the batch's size, so that the data share its value."""
    return all(frame.size != size for frame in _plates(site))


def entry_names(site: str, event: torch.Size) -> list[str]:
    """Names of the entries of one site: `z` for a scalar, `z[0]`, `z[3,1]` otherwise."""
    if not event:
        return [site]
    return [f"{site}[{','.join(map(str, i))}]" for i in product(*map(range, event))]


def unflattened(flat: Tensor, sites: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """`(K, N, d)` -> site -> `(K, N, *event)`, the inverse of `flatten`."""
    parts = flat.split([event.numel() for event in sites.values()], -1)
    return {
        name: part.reshape(*part.shape[:2], *event) for (name, event), part in zip(sites.items(), parts, strict=True)
    }


def flatten(values: dict[str, Tensor], leading: int = 2) -> Tensor:
    """Site values with `leading` axes before the event, side by side: `(..., batch, entries)`."""
    return torch.cat([v.reshape(*v.shape[:leading], -1) for v in values.values()], -1)
