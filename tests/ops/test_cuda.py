"""What only a GPU can show: streams, graphs, no waiting, the same bits every time."""

import math

import pytest
import torch

from fastadv import ops
from tests.ops.inputs import NORMS, step_inputs

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("native"),
]


def large(norm):
    return step_inputs((8, 3, 100, 101), torch.float32, "cuda"), {
        "step_size": 0.05,
        "norm": norm,
        "bounds": (0.0, 1.0),
    }


@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_step_replays_with_new_data_and_a_new_eps(norm):
    (x_adv, x, grad), settings = large(norm)
    eps, seed = torch.tensor(0.2, device="cuda"), torch.tensor([1, 0], device="cuda")
    start = x_adv.clone()
    ops.pgd_step_(x_adv, x, grad, eps=eps, **settings)  # the first launches load the kernels
    ops.random_in_ball(x, eps, norm, seed=seed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.pgd_step_(x_adv, x, grad, eps=eps, **settings)
        drawn = ops.random_in_ball(x, eps, norm, seed=seed)
    for radius, sign in ((0.2, 1.0), (0.03, -1.0)):
        x_adv.copy_(start)
        grad.mul_(sign)
        eps.fill_(radius)
        graph.replay()
        expected = ops.pgd_step(start, x, grad, eps=radius, **settings)
        assert torch.equal(x_adv, expected)
        assert torch.equal(drawn, ops.random_in_ball(x, radius, norm, seed=1))


@pytest.mark.parametrize("norm", NORMS)
def test_kernels_run_on_the_current_stream(norm):
    (x_adv, x, grad), settings = large(norm)
    expected = ops.pgd_step(x_adv, x, grad, eps=0.1, **settings)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(grad)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(grad)
        out = ops.pgd_step(x_adv, x, late, eps=0.1, **settings)
    stream.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_no_operator_waits_for_the_gpu(norm):
    (x_adv, x, grad), settings = large(norm)
    seed = torch.tensor([1, 0], device="cuda")
    eps = torch.full((8,), 0.1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.pgd_step(x_adv, x, grad, eps=0.1, **settings)
        ops.pgd_step_(x_adv, x, grad, eps=eps, **settings)
        ops.project(grad, eps, norm)
        ops.steepest(grad, norm)
        ops.random_in_ball(x, eps, norm, seed=seed)
        ops.random_in_ball(x, 0.1, norm, seed=7)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_call_gives_the_same_bits_every_time(norm):
    (x_adv, x, grad), settings = large(norm)
    first = ops.pgd_step(x_adv, x, grad, eps=0.1, **settings)
    for _ in range(20):
        assert torch.equal(ops.pgd_step(x_adv, x, grad, eps=0.1, **settings), first)


def test_more_elements_than_a_32_bit_index_counts():
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    x = torch.full((3, 2**30), 0.5, dtype=torch.float16, device="cuda")
    grad = torch.ones_like(x)
    grad[2, -1] = -1
    out = ops.pgd_step(x, x, grad, eps=0.25, step_size=0.125, norm=math.inf)
    assert out[0, 0] == 0.625
    assert out[2, -2] == 0.625
    assert out[2, -1] == 0.375
