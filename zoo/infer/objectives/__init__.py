r"""Objectives: functionals of the per-datum log weights log w_kn (`zoo.infer.terms`), k = 1..K draws for datum n.

A mean over k is one over the values of the sites, too, that the guide has summed out.

| objective | bound for one datum | reference |
|---|---|---|
| `ELBO` | mean_k log w_k | Jordan et al. 1999; Kingma and Welling 2014 |
| `IWELBO` | log mean_k w_k | Burda et al. 2016 |
| `RenyiELBO` | 1/(1-alpha) log mean_k w_k^(1-alpha) | Li and Turner 2016 |
| `Tempered` | any of them on tempered weights | Higgins et al. 2017; Kingma et al. 2016; Burgess et al. 2018 |
| `TotalCorrelation` | ELBO - (beta - 1) total correlation of the code | Chen et al. 2018 |
| `SemiSupervised` | any of them with or without a label, + alpha log q(y \| x) of the labels | Kingma et al. 2014 |
| `Scheduled` | any of them, a buffer of the pair moving with the steps | Jang et al. 2017 |
| `RLOO`, `VIMCO` | `ELBO`, `IWELBO`, of draws without a path | Kool et al. 2019; Mnih and Rezende 2016 |
| `MAP` | no bound: log p(x, z) at a point z | Bishop 2006, section 1.2.5 |

Losses follow Pyro's convention: minus the bound, summed over the batch. Whatever estimates the gradient, the value is
the bound.
"""

from zoo.infer.objectives.elbo import ELBO
from zoo.infer.objectives.iwelbo import IWELBO
from zoo.infer.objectives.objective import Objective
from zoo.infer.objectives.point import MAP
from zoo.infer.objectives.renyi import RenyiELBO
from zoo.infer.objectives.scheduled import Scheduled
from zoo.infer.objectives.score import RLOO, VIMCO
from zoo.infer.objectives.semi_supervised import SemiSupervised
from zoo.infer.objectives.tempered import Tempered
from zoo.infer.objectives.total_correlation import TotalCorrelation

__all__ = [
    "ELBO", "IWELBO", "MAP", "RLOO", "VIMCO", "Objective", "RenyiELBO", "Scheduled", "SemiSupervised", "Tempered",
    "TotalCorrelation",
]  # fmt: skip
