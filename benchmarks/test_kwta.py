"""k-WTA: the operator against what topk and kthvalue make of it, and a k-WTA ResNet-18 against a ReLU one."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import DTYPES
from benchmarks.race import Call, Enter, Notes, Race, agree
from fastadv import KWTA, ops
from fastadv.models import cifar_resnet18

GAMMA = 0.1
# The rows of the published ResNet-18; a GPU also gets rows of an ImageNet image and of a million.
ROWS = {"cpu": [8192, 16384, 32768, 65536], "cuda": [8192, 16384, 32768, 65536, 150_528, 1_000_000]}
DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "relu": torch.relu,
    "ties": lambda x: (4 * x).round() / 4,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--device") == "cuda"
    if "cols" in metafunc.fixturenames:
        metafunc.parametrize("cols", ROWS["cuda" if on_gpu else "cpu"])
        metafunc.parametrize("data", list(DATA) if on_gpu else ["normal"])


def topk_and_scatter(x: Tensor, k: int) -> Tensor:
    values, indices = x.topk(k, dim=1, sorted=False)
    return torch.zeros_like(x).scatter_(1, indices, values)


def topk_and_compare(x: Tensor, k: int) -> Tensor:
    return torch.where(x >= x.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True), x, 0)


def kthvalue_and_compare(x: Tensor, k: int) -> Tensor:
    threshold = x.kthvalue(x.shape[1] - k + 1, dim=1, keepdim=True).values
    return torch.where(x >= threshold, x, 0)


class TopkKWTA(nn.Module):
    """k-WTA as its authors describe it: x times (x >= the k-th largest), by topk."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        threshold = rows.topk(int(GAMMA * rows.shape[1]), dim=1).values[:, -1:]
        return (rows * (rows >= threshold).to(x.dtype)).view(x.shape)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """On the CPU: neither topk nor ours is to win by using more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def alone(call: Call) -> Tensor:
    with one_thread():
        return call()


@pytest.mark.parametrize(
    "contender", ["topk + scatter", "topk + compare", "kthvalue + compare", "relu", "native"]
)
def test_kwta(contender: str, cols: int, data: str, dtype: str, device: str, enter: Enter) -> None:
    k = int(GAMMA * cols)

    def make() -> Race:
        rows = 256 if cols <= 65536 else 64  # 256 is the batch that the published nets were trained with
        x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
        x = DATA[data](x).to(device, DTYPES[dtype])
        calls: dict[str, Call] = {
            "topk + compare": lambda: topk_and_compare(x, k),
            "topk + scatter": lambda: topk_and_scatter(x, k),
            "kthvalue + compare": lambda: kthvalue_and_compare(x, k),
            "relu": lambda: torch.relu(x),
            "native": lambda: ops.kwta(x, k),
        }

        def check(results: dict[str, Tensor]) -> Notes | None:
            """All keep the same elements but scatter, which drops some ties, and ReLU, shown for scale."""
            agree({name: y for name, y in results.items() if name not in ("topk + scatter", "relu")})
            kept = torch.count_nonzero(results["topk + scatter"]).item()
            assert kept <= torch.count_nonzero(results["native"]).item()
            return None

        return Race({name: partial(alone, call) for name, call in calls.items()}, check, moved=2 * x.nbytes)

    enter(f"kwta {cols} {dtype} {data}", contender, make)


@pytest.mark.parametrize("contender", ["relu", "topk", "fastadv"])
@pytest.mark.parametrize("work", ["training step", "inference"])
def test_a_kwta_resnet18(contender: str, work: str, device: str, enter: Enter) -> None:
    """Forward and backward, or forward alone, on CIFAR-sized images; the nets differ in their activation."""

    def make() -> Race:
        batch = 32 if device == "cpu" else 256
        x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
        y = torch.arange(batch, device=device) % 10
        activations = {"relu": nn.ReLU, "topk": TopkKWTA, "fastadv": partial(KWTA, GAMMA)}
        nets = {}
        for name, activation in activations.items():
            torch.manual_seed(0)
            nets[name] = cifar_resnet18(activation=activation).to(device).train(work == "training step")

        def train(net: nn.Module) -> Tensor:
            loss = F.cross_entropy(net(x), y)
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

        def infer(net: nn.Module) -> Tensor:
            with torch.no_grad():
                return net(x)

        step = train if work == "training step" else infer

        def check(results: dict[str, Tensor]) -> None:
            """Both k-WTA nets compute the same."""
            agree({name: result for name, result in results.items() if name != "relu"})

        return Race({name: partial(step, net) for name, net in nets.items()}, check)

    enter(f"k-WTA ResNet-18 {work}", contender, make)
