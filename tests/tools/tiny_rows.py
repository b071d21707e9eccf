"""Rows of seconds, for the tests of the runner."""

from dataclasses import replace
from functools import partial

import torch
from rows.row import Row, Splits, cosine

import guides
from zoo import VAE
from zoo.infer import ELBO, kl_per_site, log_likelihood


def data():
    x = (torch.rand(300, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    return Splits(x[:200], x[200:250], x[250:])


def build(splits):
    model = VAE(6, 2, (8,))
    return ELBO()(model, guides.Amortized(model, hidden=(8,)))


def look(model, guide, splits):
    return {"kl": kl_per_site(model, guide, splits.validation)["z"].mean().item(), "draw": torch.rand(()).item()}


def evaluate(model, guide, splits):
    return {"log_p": log_likelihood(model, guide, splits.test, num_particles=20).mean, "draw": torch.rand(()).item()}


ROW = Row(
    name="tiny-vae", system="VAE", data=data, build=build, evaluate=evaluate, look=look, every=5, minutes=5, epochs=60,
    batch_size=50, schedule=partial(cosine, last=1e-4), seed=3, facts={"data": "coins"},
)  # fmt: skip
ROWS = [
    ROW,
    replace(ROW, name="tiny-short", minutes=1e-9),
    replace(ROW, name="tiny-patient", settings={"patience": 1}, optimizer=partial(torch.optim.SGD, lr=0.0)),
]
