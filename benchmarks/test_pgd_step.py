"""pgd_step on 64 ImageNet-sized images: three reads and one write of each element are the floor."""

import pytest
import torch

from benchmarks.inputs import EPS, NORMS, images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native", "native in place"])
def test_pgd_step(contender: str, norm: str, dtype: str, device: str, enter: Enter) -> None:
    def make() -> Race:
        x_adv, x, grad = images(dtype, device)
        own = x_adv.clone()
        settings = {"eps": EPS[norm], "step_size": EPS[norm] / 4, "norm": NORMS[norm]}
        # Inductor fails on the compiled in-place step for norm 2, so the functional one is compared.
        compiled = torch.compile(lambda x_adv, x, grad: reference.pgd_step(x_adv, x, grad, **settings))
        return Race(
            {
                "reference": lambda: reference.pgd_step(x_adv, x, grad, **settings),
                "torch.compile": lambda: compiled(x_adv, x, grad),
                "native": lambda: ops.pgd_step(x_adv, x, grad, **settings),
                "native in place": lambda: ops.pgd_step_(own, x, grad, **settings),
            },
            check=agree,
            moved=4 * x.nbytes,
        )

    enter(f"pgd_step l{norm} {dtype}", contender, make)
