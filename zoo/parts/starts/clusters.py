"""Clusters of the data, from which mixtures and hidden Markov models start."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor


def clusters(x: Tensor, num: int) -> Tensor:
    """The clusters of x `(M, data_dim)` by scikit-learn's k-means, one run from k-means++, one-hot, `(M, num)`.

    The seed of k-means is drawn by torch.
    """
    # imported here, since it is slow and no other function needs it
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), device="cpu"))
    with warnings.catch_warnings():
        # with fewer distinct data than clusters some stay empty, which the caller's M-step sees by itself
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        kmeans = KMeans(num, n_init=1, random_state=seed).fit(x.detach().cpu().numpy())
    return F.one_hot(torch.as_tensor(kmeans.labels_, dtype=torch.long, device=x.device), num).to(x.dtype)
