"""pgd_step on 64 ImageNet-sized images: three reads and one write of each element are the floor.

On a GPU also on as many elements in 32x32 images, which a multiprocessor can hold while it adds up the norm.
"""

import pytest
import torch

from benchmarks.inputs import EPS, IMAGES, NORMS, SMALL_IMAGES, images
from benchmarks.race import Enter, Race, agree
from fastadv import ops, reference


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--device") == "cuda"
    metafunc.parametrize("size", ["224x224"] + ["32x32"] * on_gpu)


@pytest.mark.parametrize("contender", ["reference", "torch.compile", "native", "native in place"])
def test_pgd_step(contender: str, norm: str, size: str, dtype: str, device: str, enter: Enter) -> None:
    small = size == "32x32"

    def make() -> Race:
        x_adv, x, grad = images(dtype, device, SMALL_IMAGES if small else IMAGES)
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

    enter(f"pgd_step l{norm}{' 32x32' * small} {dtype}", contender, make)
