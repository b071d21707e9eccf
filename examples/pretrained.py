"""Every pair that ships, scored again and new_data from, and one posterior checked: nothing is trained.

For each pair its figure on its fixed rows is found again, and data, reconstructions and draws stand beside each other.
The posterior of a VAE of two latents is held against a grid: the exact one.

    python examples/pretrained.py --names digits-vae nile-level
"""

from pathlib import Path

import torch
import tyro
from report import save

import zoo
from zoo.infer import compare, grid_reference, plot_overlay
from zoo.shipped.draws import new_data, plot_beside, reconstructed
from zoo.shipped.rescore import report, rescore


def main(names: tuple[str, ...] = (), num: int = 12, checked: str = "digits-vae", num_checked: int = 4, seed: int = 0,
         out: Path = Path("runs/pretrained")) -> None:  # fmt: skip
    """Scores pairs again, draws from each, checks one posterior.

    Args:
        names: of the pairs; none: all that ship.
        checked: the pair whose posterior is checked, of at most two latents.
    """
    torch.set_num_threads(1)
    shelf = zoo.pretrained()
    print(shelf)
    found = [rescore(shelf[name]) for name in names or shelf]
    print(report(found))
    for name in [at.name for at in found if not at.reason]:
        model, guide = zoo.pretrained(name)
        data, shape = shelf[name].data(), shelf[name].score["picture"]
        parts = {"data": data["x"][:num], "draws": new_data(model, data, num, seed)}
        if (means := reconstructed(model, guide, data, num, seed)) is not None:
            parts = {"data": parts["data"], "decoded": means, "draws": parts["draws"]}
        save(plot_beside(parts, shape and tuple(shape)), out / f"{name}.png")

    model, guide = zoo.pretrained(checked)
    x = shelf[checked].data()["x"][:num_checked]
    reference = grid_reference(model, x)
    print(compare(guide, reference, x))
    save(plot_overlay(guide, reference, x, image_shape=(8, 8)), out / "posterior.png")


if __name__ == "__main__":
    tyro.cli(main)
