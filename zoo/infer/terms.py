"""The core: the per-datum terms of a model/guide pair, from which every objective and every check is computed.

For latents z_1..z_L and data x, one run of guide and model over K particles gives, for each particle k and datum n,

    log w_kn = log p(x_n | z_kn) + sum_l [log p(z_l,kn | ...) - log q(z_l,kn | ...)].

Such a weight needs a value for each datum, so sites stand in one batch plate. The term of a site outside it, a global
latent, stands apart, once (`Terms.outside`): bounds that are linear in the log weights share it out among the data,
and importance-weighted ones refuse it (Pyro's `RenyiELBO` then bounds the whole batch by one weight, silently). The
pair's structure is checked once for each form of its arguments (`zoo.infer.pair`), values in every run. Apart from the
checks a run costs two light messengers and no traces.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.infer.call import WHOLE, run
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import check_num_particles
from zoo.parts.door import entered, is_collection, is_data

__all__ = ["Terms", "terms"]


def terms(model: Callable, guide: Callable, *args: Any, num_particles: int = 1, **kwargs: Any) -> Terms:
    """Per-datum log-likelihood and per-site log p - log q of a pair, over `num_particles` draws of the guide.

    Args:
        model: a model of the zoo, or any Pyro program with a batch plate; latents outside the plate are global.
        guide: a guide of the zoo, a Pyro autoguide, or any callable with the model's arguments. A site that is drawn
            from the model's own conditional is marked `infer={"from_model": True}`: its ratio is 0 and not computed. A
            discrete site marked `infer={"enumerate": "parallel"}` is summed out: `Terms.over_summed`.
        *args, **kwargs: the arguments of both, the batch first, as tensors or in any form that `fit` takes. `index`,
            the row numbers of the batch in the data set, is for guides with parameters for each data point; a model
            that does not take it is called without it.
        num_particles: K >= 1.

    Returns:
        `Terms`, in nats, every entry `(K, N)`, with summed sites `(..., K, N)`; of sites outside the plate `(K,)`.

    Raises:
        ValueError: the pair does not fit together, or a value is NaN, of another shape or outside its site's support;
            names the site and the reason. Values are not checked under `pyro.enable_validation(False)`.
        RuntimeError: another thread is running a pair.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import terms
        >>> model = VAE(784, 20)
        >>> terms(model, guides.Amortized(model), torch.zeros(3, 784), num_particles=5).log_weights.shape
        torch.Size([5, 3])
    """
    if args and not isinstance(args[0], Tensor) and (is_data(args[0], "x") or is_collection(args[0])):
        x, rest, kwargs = entered((model, guide), args[0], args[1:], kwargs)
        args = x, *rest
    return run(model, guide, args, kwargs, check_num_particles(num_particles), WHOLE)
