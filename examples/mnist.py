"""A VAE on MNIST: one row of the tables, test log p(x) by 5000 importance samples, written to results/<name>.json.

IWAE's one-layer architecture (Burda et al. 2016): 50 latents, 200-200 tanh in encoder and decoder. Dynamic binarisation
(`--data mnist`, IWAE's split: 59,600 to train, 400 to validate) or the fixed one (`--data binarized_mnist`).

    python examples/mnist.py --name vae --objective elbo-analytic --epochs 1000
"""

import time
from functools import partial
from pathlib import Path

import pyro
import torch
import tyro
import words
from record import record
from report import save
from torch import nn

import guides
from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import Tempered, active_units, fit, load_model, log_likelihood, plot_reconstructions
from zoo.parts.conditionals import Bernoulli


def splits(name: str, train_rows: int | None, num_test: int | None):
    """(train, valid, test, mean of the pixels): train as data for `fit`, the others as fixed bits."""
    data = load(name)
    test = data.test.shuffled(123)[:num_test]
    if data.num_levels == 2:
        return data.train.images[:train_rows], data.valid.images, test.images, data.train.images.mean(0)
    # IWAE trains on 59,600: its validation set is only the last 400.
    grey = torch.cat([data.train.levels, data.valid.levels]).float() / (data.num_levels - 1)
    train, valid = grey[: train_rows or -400], grey[-400:]
    return Binarized(train), binarize(valid, seed=123), binarize(test, seed=123), train.mean(0)


def main(
    *, name: str, data: str = "mnist", objective: str = "elbo-analytic", num_particles: int = 1,
    family: str = "diagonal", epochs: int = 100, batch_size: int = 100, learning_rate: float = 1e-3,
    last_learning_rate: float = 1e-5, warm_up: int = 0, start: Path | None = None, resume: bool = False,
    compile: bool = False, device: str = "cpu", threads: int = 1, seed: int = 0, num_test: int | None = None,
    train_rows: int | None = None, note: str = "",
) -> None:  # fmt: skip
    """Trains the pair, evaluates it on the test images, writes the row.

    Args:
        warm_up: epochs in which the KL weight rises to 1.
        start: the folder of a training, or a model.safetensors, to fine-tune.
    """
    torch.set_num_threads(threads)
    pyro.set_rng_seed(seed)
    train, valid, test, mean = splits(data, train_rows, num_test)
    # The decoder starts from the mean image, as in IWAE's code.
    model = VAE(784, 50, (200, 200), activation=nn.Tanh, likelihood=partial(Bernoulli, mean=mean))
    guide = guides.Amortized(model, family=words.family(family), hidden=(200, 200), activation=nn.Tanh)
    steps = epochs * -(-len(train) // batch_size)
    bound = words.objective(objective, num_particles)
    if warm_up:
        bound = Tempered(bound, kl_weight=lambda step: min(1.0, 1e-3 + step / (warm_up * steps / epochs)))
    loss = bound(model, guide)
    if start is not None:
        load_model(loss, start)
    began = time.time()
    result = fit(
        loss, train, epochs=epochs, batch_size=batch_size,
        optimizer=partial(torch.optim.Adam, lr=learning_rate, fused=True),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps, eta_min=last_learning_rate),
        validation=valid, seed=seed, device=device, out=Path("runs") / name, resume=resume, compile=compile,
    )  # fmt: skip
    trained = time.time()
    # The best epoch by validation.
    load_model(loss, Path("runs") / name)
    test = test.to(device)
    value = log_likelihood(model, guide, test, num_particles=5000, seed=123)
    units = active_units(guide, test)["z"].active.sum().item()
    row = {
        "data": data,
        "objective": objective + (f"({num_particles})" if num_particles > 1 else ""),
        "family": family,
        "log_p": value.mean,
        "log_p_error": value.standard_error,
        "monte_carlo_error": value.monte_carlo_error,
        "elbo": value.elbo.mean().item(),
        "active_units": units,
        "num_test": len(test),
        "epochs": epochs,
        "best_epoch": result.best["epoch"] if result.best else None,
        "training_seconds": round(result.seconds),
        "evaluation_seconds": round(time.time() - trained),
    }
    print(record(name, row, seed=seed, device=device, threads=threads, note=note, began=began))
    with torch.no_grad():
        z = {"decoded": guide.posterior(test[:10]).sample(), "samples": model.prior().sample((10,))}
        images = {"data": test[:10]} | {label: model.likelihood(value).mean for label, value in z.items()}
    save(plot_reconstructions(images, (28, 28)), Path("runs") / name / "digits.png")


if __name__ == "__main__":
    tyro.cli(main)
