"""Pairs with labels at toy size, and their densities written out by hand, in torch's own layers and distributions.

The hand-written form joins inputs side by side (`torch.cat`, `F.one_hot`), one class at a time, as public codes do.
"""

from functools import partial

import torch
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional as F

import guides
from zoo import ADGM, M1M2, M2, VAE
from zoo.parts import conditionals

N, DATA, LATENT, CLASSES, AUXILIARY, HIDDEN = 5, 6, 3, 4, 2, (8, 7)
GAUSSIAN = partial(conditionals.Normal, heteroscedastic=True)
KEPT = (0, 1, 3)  # of the four latents of M1


def bits(num=N):
    return (torch.rand(num, DATA) < 0.5).to(torch.get_default_dtype())


def m2():
    prior = conditionals.ClassPrior(CLASSES, probs=[0.1, 0.2, 0.3, 0.4])
    model = M2(DATA, LATENT, CLASSES, HIDDEN, class_prior=prior)
    return model, guides.Labelled(model, hidden=HIDDEN)


def adgm(skip=False):
    model = ADGM(DATA, LATENT, CLASSES, HIDDEN, skip, auxiliary_dim=AUXILIARY)
    return model, guides.Auxiliary(model, hidden=HIDDEN)


def m1m2():
    model = M1M2(VAE(DATA, 4, (8,)), M2(3, LATENT, CLASSES, HIDDEN, likelihood=GAUSSIAN), kept=KEPT)
    return model, guides.StackedLabelled(
        model, guides.Amortized(model.m1, hidden=(8,)), guides.Labelled(model.m2, hidden=HIDDEN)
    )


BUILDS = {"m2": m2, "m1m2": m1m2, "adgm": adgm, "sdgm": partial(adgm, skip=True)}


def build(name):
    """Model, guide, bits and labels, with parameters away from their start."""
    model, guide = BUILDS[name]()
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model, guide, bits(), torch.tensor([0, 3, 1, 1, 2])


def network(stage, *inputs):
    """A `DenseStage`, as one layer over all inputs side by side, and layers on top of it."""
    lead = torch.broadcast_shapes(*(v.shape[:-1] for v in inputs))
    joined = torch.cat([v.expand(*lead, -1) for v in inputs], -1)
    first = stage.inputs.layers
    h = F.relu(F.linear(joined, torch.cat([layer.weight for layer in first], 1), first[0].bias))
    for layer in stage.rest[1::2]:
        h = F.relu(F.linear(h, layer.weight, layer.bias))
    return h


def gaussian(head, h):
    """The conditional N(W h + b, diag(exp(V h + c))^2)."""
    return Normal(head.loc(h), (head.log_scale + h @ head.scale_weight.T).exp())


def family(diagonal, h):
    loc, log_scale = diagonal.head(h).chunk(2, -1)
    return Normal(loc, log_scale.exp())


def coded(y):
    return F.one_hot(y, CLASSES).to(torch.get_default_dtype())


def total(density, value):
    return density.log_prob(value).sum(-1)


def log_p(model, x, y, drawn):
    """log p of each site, `(K, N)`; `drawn`: site -> `(K, N, size)`, y: `(N,)`."""
    c = coded(y)
    unit = Normal(0.0, 1.0)
    if isinstance(model, M1M2):
        z_1, z_2 = drawn["z_1"], drawn["z_2"]
        decoder = model.m2.decoder
        of_z_1 = total(gaussian(decoder.head, network(decoder.stage, z_2, c)), z_1[..., list(KEPT)])
        others = [i for i in range(z_1.shape[-1]) if i not in KEPT]
        logits = model.m1.emission.logits(model.m1.decoder(z_1))
        scores = {"z_2": total(unit, z_2), "z_1": of_z_1 + total(unit, z_1[..., others])}
        return scores | {"y": model.class_prior().logits[y], "x": total(Bernoulli(logits=logits), x)}
    z = drawn["z"]
    scores = {"y": model.class_prior().logits[y], "z": total(unit, z)}
    read = (z, c)
    if isinstance(model, ADGM):
        above = (z, c) if model.skip else (z, c, x)
        scores["a"] = total(gaussian(model.reverse.head, network(model.reverse.stage, *above)), drawn["a"])
        read = (z, c, drawn["a"]) if model.skip else read
    logits = model.decoder.head.logits(network(model.decoder.stage, *read))
    return scores | {"x": total(Bernoulli(logits=logits), x)}


def log_q(guide, x, y, drawn):
    """log q of each latent, y among them, `(K, N)`; arguments: `log_p`."""
    c = coded(y)

    def classes(logits, *read):
        of_class = Categorical(logits=logits.head(network(logits.stage, *read)))
        return of_class.log_prob(y)

    if isinstance(guide, guides.StackedLabelled):
        first, second, features = guide.m1, guide.m2, drawn["z_1"][..., list(KEPT)]
        return {
            "z_1": total(family(first.family, first.encoder(x)), drawn["z_1"]),
            "y": classes(second.logits, features),
            "z_2": total(family(second.family, network(second.encoder, features, c)), drawn["z_2"]),
        }
    if isinstance(guide, guides.Labelled):
        q = family(guide.family, network(guide.encoder, x, c))
        return {"y": classes(guide.logits, x), "z": total(q, drawn["z"])}
    a = drawn["a"]
    return {
        "a": total(family(guide.auxiliary_family, network(guide.reader, x)), a),
        "y": classes(guide.logits, x, a),
        "z": total(family(guide.family, network(guide.encoder, x, a, c)), drawn["z"]),
    }
