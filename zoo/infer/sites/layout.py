"""The layout of a pair's sites."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """The structure of a pair's sites: names, plates and marks, no tensors and no values.

    Attributes:
        batch_plate, batch_dim: name and dim of the plate that holds one datum per index.
        nesting: number of dims that the plates take; the particles stand to the left of them.
        order: all sites, the guide's and then the model's others.
        latents: the model's latent sites that are continuous, in the model's order.
        auxiliary: site of the guide alone -> latent site made of it (Pyro's autoguides).
        point_masses: sites at which the guide gives a point, and no density, for a continuous latent.
        from_model: sites that the guide marks as the model's own conditional.
        summed: sites that the guide marks to be summed out, in its order.
        no_path: drawn sites of the guide without a reparameterised sample -> name of their distribution.
        unlike: latents whose support differs between model and guide, so that each run looks at the guide's draws.
        mixed: latents that are discrete in one program and continuous in the other: a probability beside a density.
        in_order: True if the guide draws the latents in the model's order.
        statements: names of the model's own `pyro.param` statements.
        outside: sites of either program without a value for each datum: those outside the batch plate, and all that a
            joint density of the guide covers.
        joint: site of the guide alone -> the latents that are cut out of it together (Pyro's joint autoguides).
    """

    batch_plate: str
    batch_dim: int
    nesting: int
    order: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()
    auxiliary: dict[str, str] = field(default_factory=dict)
    point_masses: tuple[str, ...] = ()
    from_model: frozenset[str] = frozenset()
    summed: tuple[str, ...] = ()
    no_path: dict[str, str] = field(default_factory=dict)
    unlike: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()
    in_order: bool = True
    statements: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    joint: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def first_outside(self) -> str:
        """The first site in `outside`, for errors."""
        # sites of an autoguide's own, such as "w_unconstrained", say nothing to the model's author
        own = {*self.auxiliary, *self.joint}
        return next(name for name in self.order if name in self.outside and name not in own)
