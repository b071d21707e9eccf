"""Linear-Gaussian hierarchies in float64: log p(x), posterior and L^{>k} are exact, and guides are set to them."""

from functools import partial

import pyro
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import guides
from zoo import BIVA, Hierarchical
from zoo.parts.conditionals import Normal
from zoo.parts.networks import MultiInput

DATA, LATENT = 5, (3, 2, 2)
WIDE = partial(MultiInput, out_features=14)  # a linear stage without loss: wider than all that enters it


class Joint:
    """The joint Gaussian of all sites, found by differentiating the generative program in its noises.

    `where` holds the entries of each site in the joint vector.
    """

    def __init__(self, model):
        names, sizes = [*reversed(model.sites), "x"], [*reversed(model.latent_dims), model.data_dim]

        def program(noise):
            above, values = None, []
            for level, e in zip(range(len(model.sites), 0, -1), noise.split(sizes), strict=False):
                p = model.prior(level, above)
                values.append(p.mean + p.variance.sqrt() * e)
                above = model.descend(level, above, values[-1])
            p = model.likelihood(above)
            return torch.cat([*values, p.mean + p.variance.sqrt() * noise[-model.data_dim :]])

        zero = torch.zeros(sum(sizes))
        root = torch.autograd.functional.jacobian(program, zero)
        self.mean, self.cov = program(zero).detach(), root @ root.T
        self.where = dict(zip(names, torch.arange(sum(sizes)).split(sizes), strict=True))

    def entries(self, names):
        return torch.cat([self.where[name] for name in names])

    def marginal(self, names):
        i = self.entries(names)
        return MultivariateNormal(self.mean[i], self.cov[i][:, i])

    def conditional(self, names, given):
        """Matrix A, shift b and covariance of p(names | given) = N(A v + b, covariance)."""
        i, j = self.entries(names), self.entries(given)
        A = torch.linalg.solve(self.cov[j][:, j], self.cov[j][:, i]).T
        cov = self.cov[i][:, i] - A @ self.cov[j][:, i]
        return A, self.mean[i] - A @ self.mean[j], (cov + cov.T) / 2

    def sample(self, num):
        values = MultivariateNormal(self.mean, self.cov).sample((num,))
        return {name: values[:, i] for name, i in self.where.items()}

    def log_prob(self, x):
        return self.marginal(["x"]).log_prob(x)

    def upper_bound_of(self, x, below):
        """L^{>k} of each datum, the guide's upper levels being exact and its sites `below` drawn from the model."""
        upper = [name for name in self.where if name not in {*below, "x"}]
        A, b, S = self.conditional(upper, ["x"])
        q = MultivariateNormal(x @ A.T + b, S)
        mean, cov = q.mean, S
        if below:  # the lower levels follow the upper ones by the model's own law
            B, c, T = self.conditional(below, upper)
            mean = torch.cat([mean, mean @ B.T + c], -1)
            cov = torch.cat([torch.cat([S, S @ B.T], 1), torch.cat([B @ S, B @ S @ B.T + T], 1)], 0)
        C, d, R = self.conditional(["x"], [*upper, *below])
        expected = MultivariateNormal(mean @ C.T + d, R).log_prob(x) - 0.5 * torch.trace(
            torch.linalg.solve(R, C @ cov @ C.T)
        )
        return expected - kl_divergence(q, self.marginal(upper))


def make_exact(model, guide):
    """Sets the guide's linear maps to the exact conditionals of its own order; returns the joint."""
    joint = Joint(model)
    draws = joint.sample(400)
    x = draws["x"]
    seen = {}
    hooks = [
        part.head.register_forward_hook(lambda _, inputs, __, site=site: seen.__setitem__(site, inputs))
        for site, part in zip(guide.sites, guide.parts, strict=True)
    ]
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.poutine.condition(guide, {n: draws[n] for n in guide.sites})).get_trace(x)
    for hook in hooks:
        hook.remove()
    order = [name for name in trace.nodes if name in guide.sites]
    for site, part in zip(guide.sites, guide.parts, strict=True):
        given = ["x", *order[: order.index(site)]]
        A, b, cov = joint.conditional([site], given)
        target = torch.cat([draws[n] for n in given], -1) @ A.T + b
        features = torch.cat([*seen[site], torch.ones(len(x), 1)], -1)
        W = torch.linalg.lstsq(features, target, driver="gelsd").solution.T
        assert (features @ W.T - target).abs().max() < 1e-8, f"{site}: the guide's inputs do not determine it"
        d, root = len(b), torch.linalg.cholesky(cov)
        rest = torch.cat([root.diagonal().log(), root[tuple(torch.tril_indices(d, d, -1))]])
        with torch.no_grad():
            blocks = W[:, :-1].split([v.shape[-1] for v in seen[site]], -1)
            for layer, block in zip(part.head.layers, blocks, strict=True):
                layer.weight.zero_()[:d] = block
            part.head.layers[0].bias.copy_(torch.cat([W[:, -1], rest]))
    return joint


def chain(skip=False):
    return scattered(Hierarchical(DATA, LATENT, [WIDE] * 3, skip, likelihood=Normal, conditional=Normal))


def biva():
    return scattered(BIVA(DATA, LATENT, [WIDE] * 3, likelihood=Normal, conditional=Normal))


def scattered(model):
    """Every scale of its own, so that no two are taken for each other."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_scale" in name:
                parameter.uniform_(-0.5, 0.2)
    return model


def of(guide, depth=3, **settings):
    return lambda model: guide(model, hidden=[WIDE] * depth, family=guides.FullRank, **settings)


up_in_levels = partial(guides.Bidirectional, family_up=guides.FullRank)

#: name -> model, guide that can be exact
EXACT = {
    "bottom-up": (chain, of(guides.BottomUp)),
    "top-down": (chain, of(guides.TopDown)),
    "top-down with skips": (partial(chain, True), of(guides.TopDown)),
    "bidirectional on a chain": (partial(chain, True), of(up_in_levels, bottom_up=(1,))),
    "BIVA": (biva, of(up_in_levels, 5)),
    "top-down on BIVA": (biva, of(guides.TopDown, 5)),
}


def exact(name, seed=3):
    """Model, guide at the posterior, joint."""
    torch.manual_seed(seed)
    model, guide = EXACT[name]
    model = model()
    guide = guide(model)
    return model, guide, make_exact(model, guide)


def ladder(levels=4, size=3):
    """A ladder at the posterior of a model in which each coordinate is a chain of its own; and the joint.

    z_l given z_{l+1} and x is there the product of p(z_l | z_{l+1}) and of a Gaussian in z_l, a function of x alone.
    """
    square = partial(MultiInput, out_features=size)
    model = Hierarchical(size, (size,) * levels, [square] * levels, likelihood=Normal, conditional=Normal)
    guide = guides.Ladder(model, hidden=[square] * levels)
    with torch.no_grad():
        for stage in model.stages:
            stage.layers[0].weight.copy_(torch.diag(0.5 + torch.rand(size)))
        for head in (*model.conditionals, model.emission):
            head.loc.weight.copy_(torch.diag(0.5 + torch.rand(size)))
            head.log_scale.uniform_(-1, 0)
        joint = Joint(model)
        for site, part in zip(guide.sites, guide.parts, strict=True):
            part.stage.layers[0].weight.copy_(torch.eye(size))
            part.stage.layers[0].bias.zero_()
            # as a function of z_l, p(x | z_l) = N(x; a z_l + c, s^2) is a Gaussian of mean (x - c) / a and scale s / a
            A, c, cov = joint.conditional(["x"], [site])
            a, s = A.diagonal(), cov.diagonal().sqrt()
            part.head.layers[0].weight.zero_()[:size] = torch.diag(1 / a)
            part.head.layers[0].bias.copy_(torch.cat([-c / a, (s / a).log()]))
    return model, guide, joint
