"""cw_step_ on 64 ImageNet-sized images: ten accesses to each element are the floor."""

import pytest
import torch
from torch import Tensor

from benchmarks.inputs import images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native"])
def test_cw_step(contender: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        x_adv, x, grad = images(dtype, device)
        settings = {"c": 1.0, "lr": 0.01, "step": 10}
        names = ("reference", "torch.compile", "native")
        place = torch.atanh((2 * x.float() - 1) * 0.999999)
        # Each contender walks on from its own state: all take the same steps in the same order.
        states = {
            name: [x_adv.clone(), place.clone(), torch.zeros_like(place), torch.zeros_like(place)]
            for name in names
        }
        compiled = torch.compile(lambda *tensors: reference.cw_step_(*tensors, **settings))
        steps = {"reference": reference.cw_step_, "native": ops.cw_step_}

        def taken(name: str) -> Tensor:
            if name == "torch.compile":
                return compiled(*states[name], x, grad)
            return steps[name](*states[name], x, grad, **settings)

        return Race(
            {name: (lambda name=name: taken(name)) for name in names},
            check=agree,
            moved=4 * x.nbytes + 6 * place.nbytes,
        )

    enter(f"cw_step {dtype}", contender, make)
