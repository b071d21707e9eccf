"""HMC and NUTS on two levels of latents: exact guides pass `compare`, and a guide that is off does not."""

import pytest
import torch
from linear_hierarchies import WIDE, make_exact, of, scattered

import guides
from zoo import Hierarchical
from zoo.infer import compare, hmc_reference, nuts_reference
from zoo.infer.reference.compare import Verdict
from zoo.parts.conditionals import Normal

pytestmark = [pytest.mark.usefixtures("double_precision"), pytest.mark.slow]

EXACT = {
    "bottom-up": of(guides.BottomUp, 2),
    "top-down": of(guides.TopDown, 2),
    "bidirectional": of(guides.Bidirectional, 2, family_up=guides.FullRank, bottom_up=(1,)),
}


@pytest.mark.parametrize(("sampler", "num"), [(hmc_reference, 4), (nuts_reference, 1)])
def test_exact_guides_pass_and_one_beside_them_does_not(sampler, num):
    """4,000 draws of effective size 400 or more: their own error of a mean is below a twentieth of the posterior's."""
    model = scattered(Hierarchical(4, (2, 1), [WIDE] * 2, likelihood=Normal, conditional=Normal))
    exact = {name: make(model) for name, make in EXACT.items()}
    joints = [make_exact(model, guide) for guide in exact.values()]
    x = joints[0].sample(num)["x"]
    reference = sampler(model, x, num_samples=1000, seed=0)
    for name, guide in exact.items():
        assert set(compare(guide, reference, x, seed=0).verdicts) == {Verdict.GOOD}, name
    with torch.no_grad():
        exact["top-down"].parts[0].head.layers[0].bias[:2] += 2.0
    assert set(compare(exact["top-down"], reference, x, seed=0).verdicts) == {Verdict.BAD}
