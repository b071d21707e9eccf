"""pythae's part of `benchmarks.vae_step`: the step of its trainer, at the same size. Runs where pythae is installed.

Its ELBO uses the closed-form KL, its Adam is torch's default, its trainer shows a progress bar; all left as they are.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from benchmarks.turns import turns


class Encoder(BaseEncoder):
    def __init__(self, data: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(data, hidden), nn.ReLU())
        self.loc, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.body(x)
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))


class Decoder(BaseDecoder):
    def __init__(self, data: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, data), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.body(z))


# pythae's trainer has no hook for a single step, but it asks its loader once for each.
class Turns:
    """A data loader that waits for each turn: pythae's own, over and over, or the same batch each time."""

    def __init__(self, loader: torch.utils.data.DataLoader, batch: BaseDataset | None) -> None:
        self.loader, self.batch, self.dataset = loader, batch, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = self.again()
        for _ in turns():
            yield next(batches)

    def again(self) -> Iterator:
        while True:
            yield from self.loader if self.batch is None else [self.batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=json.loads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-loader", action="store_true")
    args = parser.parse_args()
    data, hidden, latent, batch, particles = (args.size[k] for k in ("data", "hidden", "latent", "batch", "particles"))
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    # As many rows as MNIST has: a loader that shuffles them touches as much memory.
    x = torch.bernoulli(torch.full((60_000, data), 0.2))
    config = {"input_dim": (data,), "latent_dim": latent, "reconstruction_loss": "bce"}
    networks = {"encoder": Encoder(data, hidden, latent), "decoder": Decoder(data, hidden, latent)}
    if particles == 1:
        model = VAE(VAEConfig(**config), **networks)
    else:
        model = IWAE(IWAEConfig(**config, number_samples=particles), **networks)
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model,
            BaseDataset(x, torch.zeros(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=folder, per_device_train_batch_size=batch, learning_rate=1e-6, no_cuda=True, seed=args.seed
            ),
        )
        trainer.prepare_training()
        trainer.train_loader = Turns(trainer.train_loader, None if args.own_loader else {"data": x[:batch]})
        trainer.train_step(epoch=1)


if __name__ == "__main__":
    main()
