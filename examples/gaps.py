"""Missing entries of a table filled in, missing at random and not: a VAE beside scikit-learn's iterative imputer.

The table is the breast cancer data of scikit-learn, 30 measurements of 569 tumours, z-scored by its observed entries.
Left: entries are removed by chance, and a VAE is trained on those that are left by the importance-weighted bound
(MIWAE). Right: in half of the columns every value above the mean is missing, so that the gaps say how large they are.
`WithMask` models that (not-MIWAE); all others take the gaps for chance.

    python examples/gaps.py
    python examples/gaps.py --rates 0.1 0.7 --epochs 200 --out runs/few
"""

import time
import warnings
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import torch
import tyro
from record import record
from report import save
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (imported for its effect)
from sklearn.impute import IterativeImputer
from torch import Tensor, nn

import guides
from zoo import VAE, WithMask
from zoo.infer import IWELBO, fit, impute
from zoo.parts.conditionals import Normal, SelfMasking


def removed_by_chance(x: Tensor, rate: float, seed: int) -> Tensor:
    """A mask that misses each entry with probability `rate`."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= rate


def removed_by_value(x: Tensor) -> Tensor:
    """A mask that misses, in the first half of the columns, every value above the column's mean."""
    mask = x <= x.mean(0)
    mask[:, x.shape[1] // 2 :] = True
    return mask


def by_vae(x: Tensor, mask: Tensor, epochs: int, seed: int, *, by_mask: bool = False) -> Tensor:
    """The table with its gaps filled by E[x_missing | x_observed] of a VAE that is trained on this very table."""
    pyro.set_rng_seed(seed)
    likelihood = partial(Normal, floor=0.1)
    model = VAE(x.shape[1], 10, (64, 64), likelihood=likelihood, activation=nn.Tanh)
    guide = guides.Amortized(model, hidden=(64, 64), activation=nn.Tanh, flags=True)
    if by_mask:
        # -1: it is known that large values are the ones that are missing
        model = WithMask(model, SelfMasking(x.shape[1], sign=-1))
        guide = guides.PriorBelow(guide, sites=["x_missing"], model=model)
    loss = IWELBO(20)(model, guide)
    fit(loss, (x, mask), epochs=epochs, batch_size=64, optimizer=partial(torch.optim.Adam, lr=1e-3), seed=seed,
        progress=False)  # fmt: skip
    return impute(model, guide, x, mask, num_particles=1000, seed=seed).x


def errors(truth: Tensor, mask: Tensor, epochs: int, seed: int, *, by_mask: bool = False) -> dict[str, float]:
    """Root mean squared errors over the gaps, in standard deviations of a column's observed entries."""
    seen = truth.masked_fill(~mask, torch.nan)
    centre = seen.nanmean(0)
    spread = (seen - centre).square().nanmean(0).sqrt()
    truth, x = (truth - centre) / spread, (seen - centre) / spread
    with warnings.catch_warnings():
        # the imputer says that its ten rounds have not converged; more of them hardly change the figures
        warnings.simplefilter("ignore")
        iterative = torch.from_numpy(IterativeImputer(random_state=seed).fit_transform(x.numpy())).float()
    filled = {"mean": x.nan_to_num(0.0), "iterative imputer": iterative, "VAE (MIWAE)": by_vae(x, mask, epochs, seed)}
    if by_mask:
        filled["VAE and mask (not-MIWAE)"] = by_vae(x, mask, epochs, seed, by_mask=True)
    return {name: (found - truth)[~mask].square().mean().sqrt().item() for name, found in filled.items()}


def main(
    *,
    rates: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7),
    epochs: int = 200,
    seed: int = 0,
    name: str = "",
    out: Path | None = None,
    resume: bool = False,
) -> None:
    """Prints and draws the errors; a `name` writes results/NAME.json. `resume`, of tools/runs.py, starts anew."""
    torch.set_num_threads(1)
    began = time.time()
    table = torch.from_numpy(load_breast_cancer().data).float()
    masks = {f"{rate:.0%} at random": removed_by_chance(table, rate, seed) for rate in rates}
    found = {case: errors(table, mask, epochs, seed) for case, mask in masks.items()}
    found["not at random"] = errors(table, removed_by_value(table), epochs, seed, by_mask=True)
    for case, values in found.items():
        print(f"{case:16}" + "".join(f"  {method} {error:.3f}" for method, error in values.items()))

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    *by_chance, by_value = found.values()
    for method in by_chance[0]:
        left.plot([100 * rate for rate in rates], [values[method] for values in by_chance], marker="o", label=method)
    left.set(title="missing at random", xlabel="entries removed, %", ylabel="RMSE over the gaps", ylim=(0, None))
    left.legend(frameon=False)
    right.barh([*by_value], [*by_value.values()], color=[f"C{i}" for i in range(4)])
    right.set(title="large values missing", xlabel="RMSE over the gaps")
    right.invert_yaxis()
    save(figure, (Path("runs") / (name or "gaps") if out is None else out) / "gaps.png", (left, right))
    if name:
        values = {"system": "VAE, IWELBO(20), flags", "epochs": epochs, "rmse": found}
        record(name, values, seed=seed, device="cpu", threads=1, note="", began=began)


if __name__ == "__main__":
    tyro.cli(main)
