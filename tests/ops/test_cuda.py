"""What only a GPU can show: streams, graphs, no waiting, the same bits every time."""

import math

import pytest
import torch

from fastadv import ops
from tests.ops.inputs import NORMS, step_inputs
from tests.ops.test_kwta import rows_of, same_bits, winners_by_sorting

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
        ops.add_noise(x, 2, scale=0.1, seed=7)
        ops.gap_moments(x[0, 0], x[:, 0])
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


# k-WTA

# A length that the tier can hold in float64 on any GPU that has the tier.
TIERS = {"warp": 511, "block": 8191, "cluster": 20_011, "global": 100_003}


@pytest.fixture(params=TIERS)
def tier(request, monkeypatch):
    if request.param == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with clusters")
    monkeypatch.setenv("FASTADV_KWTA_TIER", request.param)
    return request.param


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
@pytest.mark.parametrize("kind", ["normal", "relu", "ties", "equal", "not numbers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_tier_finds_the_winners_of_a_stable_sort_and_passes_their_gradients(tier, dtype, kind, ties):
    for cols in (1, 33, TIERS[tier]):
        x = rows_of(kind, 5, cols, dtype)
        grad = rows_of("normal", 5, cols, dtype, seed=1)
        for k in {1, (cols + 9) // 10, cols}:
            mask = winners_by_sorting(x, k, ties)
            on_device = x.cuda().requires_grad_()
            out = ops.kwta(on_device, k, ties=ties)
            out.backward(grad.cuda())
            assert same_bits(out.detach().cpu(), torch.where(mask, x, 0))
            assert same_bits(on_device.grad.cpu(), torch.where(mask, grad, 0))


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
def test_a_captured_kwta_replays_with_new_data(tier, ties):
    x = rows_of("ties", 7, TIERS[tier], torch.float32).cuda()
    k = TIERS[tier] // 10
    ops.kwta(x, k, ties=ties)  # the first launch loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.kwta(x, k, ties=ties)
    for seed in range(3):
        x.copy_(rows_of("ties", 7, TIERS[tier], torch.float32, seed))
        graph.replay()
        assert torch.equal(out, ops.kwta(x, k, ties=ties))


def test_kwta_waits_for_nothing_and_gives_the_same_bits_every_time(tier):
    x = rows_of("ties", 64, TIERS[tier], torch.float32).cuda().requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [ops.kwta(x, TIERS[tier] // 10, ties="lowest_index") for _ in range(20)]
        results[0].backward(results[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(result, results[0]) for result in results)


def test_kwta_chooses_a_tier_for_every_length():
    for cols in (1, 1024, 1025, 16384, 16385, 32768, 65536, 300_000, 1_000_003):
        x = rows_of("relu", 3, cols, torch.float32)
        k = (cols + 9) // 10
        out = ops.kwta(x.cuda(), k)
        assert same_bits(out.cpu(), torch.where(winners_by_sorting(x, k, "all"), x, 0))


@pytest.mark.parametrize(
    ("tier", "message"),
    [
        ("grid", "must be warp, block, cluster or global, got 'grid'"),
        ("warp", "warp cannot hold a row of 2000"),
    ],
)
def test_a_tier_that_is_none_or_too_small_is_refused(monkeypatch, tier, message):
    monkeypatch.setenv("FASTADV_KWTA_TIER", tier)
    with pytest.raises(RuntimeError, match=message):
        ops.kwta(torch.zeros(2, 2000, device="cuda"), 3)
