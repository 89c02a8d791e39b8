"""What only a GPU can show: streams, graphs, no waiting, other devices, the same bits every time."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from fastadv import ops
from tests.ops.calls import CASES, calls, copies, results_of
from tests.ops.inputs import DTYPES, NORMS, ULP, step_inputs
from tests.ops.test_kwta import rows_of, same_bits, winners_by_sorting

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("native"),
]


every_case = pytest.mark.parametrize("case", CASES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def assert_same(op, actual, expected):
    assert all(same_bits(a.cpu(), b.cpu()) for a, b in zip(actual, expected, strict=True)), op


def captured(run):
    """A CUDA graph of the call, and its results, which every replay overwrites."""
    run()  # the first launches load the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


@every_dtype
@every_case
def test_every_captured_call_replays_with_new_data(case, dtype):
    first, later = calls(dtype, "cuda", case), calls(dtype, "cuda", case, seed=1)
    for (op, args), (_, fresh) in zip(first, later, strict=True):
        start = copies(args)
        graph, results = captured(partial(results_of, op, args))
        for data in (fresh, start):
            for to, value in zip(args, data, strict=True):
                if isinstance(to, Tensor) and to.is_cuda:
                    to.copy_(value)
            graph.replay()
            assert_same(op, results, results_of(op, copies(data)))


@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_step_replays_with_a_new_eps(norm):
    x_adv, x, grad = step_inputs((8, 3, 100, 101), torch.float32, "cuda")
    settings = {"step_size": 0.05, "norm": norm, "bounds": (0.0, 1.0)}
    eps, start = torch.tensor(0.2, device="cuda"), x_adv.clone()
    graph, _ = captured(lambda: ops.pgd_step_(x_adv, x, grad, eps=eps, **settings))
    for radius in (0.2, 0.03):
        x_adv.copy_(start)
        eps.fill_(radius)
        graph.replay()
        assert torch.equal(x_adv, ops.pgd_step(start, x, grad, eps=radius, **settings))


@every_case
def test_every_call_runs_on_the_current_stream(case):
    """What the stream still has to write is seen: a kernel on another one would read the old numbers."""
    first, later = calls(torch.float32, "cuda", case), calls(torch.float32, "cuda", case, seed=1)
    stream = torch.cuda.Stream()
    for (op, args), (_, fresh) in zip(first, later, strict=True):
        late, expected = copies(args), results_of(op, copies(fresh))
        results_of(op, copies(args))  # the first launches load the kernels
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            for to, value in zip(late, fresh, strict=True):
                if isinstance(to, Tensor) and to.is_cuda:
                    to.copy_(value, non_blocking=True)
            results = results_of(op, late)
        stream.synchronize()
        assert_same(op, results, expected)


@every_case
def test_no_call_waits_for_the_gpu(case):
    of_every_operator = list(calls(torch.float32, "cuda", case))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for op, args in of_every_operator:
            op.default(*args)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", [0, 1, 1.5, 2, math.inf])
def test_no_function_waits_for_the_gpu(norm):
    x_adv, x, grad = step_inputs((8, 3, 30, 31), torch.float32, "cuda")
    seed, eps = torch.tensor([1, 0], device="cuda"), torch.full((8,), 0.1, device="cuda")
    settings = {"step_size": 0.05, "norm": norm}
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.pgd_step(x_adv, x, grad, eps=0.1, **settings)
        ops.pgd_step_(x_adv, x, grad, eps=eps, **settings)
        ops.project(grad, eps, norm)
        ops.project(grad, 0.1, norm, x=x, bounds=(0.0, 1.0))
        if norm != 0:
            ops.steepest(grad, norm)
            ops.random_in_ball(x, eps, norm, seed=seed)
            ops.random_in_ball(x, 0.1, norm, seed=7)
        ops.add_noise(x, 2, scale=0.1, seed=7)
        ops.gap_moments(x[0, 0], x[:, 0])
        state = (x_adv.clone() for _ in range(3))
        ops.cw_step_(x_adv, *state, x, grad, c=eps, tau=0.1, lr=0.01, step=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", [0.0, 1.0, 1.5, 2.0, 3.0, 7.0, math.inf])
@pytest.mark.parametrize("shape", [(8, 3, 100, 101), (70, 333)])
def test_a_step_has_the_same_bits_every_time(shape, norm):
    x_adv, x, grad = step_inputs(shape, torch.float32, "cuda")
    settings = {"eps": 30.0 if norm < 1.5 else 0.1, "step_size": 0.05, "norm": norm}
    first = ops.pgd_step(x_adv, x, grad, **settings)
    for _ in range(20):
        assert torch.equal(ops.pgd_step(x_adv, x, grad, **settings), first)


@pytest.mark.parametrize("norm", [1.0, 1.1, 1.5, 3.0, 7.0, math.inf])
@every_dtype
def test_random_points_are_those_of_the_cpu(dtype, norm):
    """Where a rejection went the other way, the element would be another number altogether."""
    x = step_inputs((16, 3, 33, 35), dtype, "cpu")[1]
    here = ops.random_in_ball(x, 0.3, norm, bounds=None, seed=11)
    there = ops.random_in_ball(x.cuda(), 0.3, norm, bounds=None, seed=11).cpu()
    assert torch.allclose(there, here, rtol=0, atol=0 if norm == math.inf else 2 * ULP[dtype])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@every_case
def test_tensors_on_another_gpu_than_the_current_one_are_served_there(case):
    first, second = (calls(torch.float32, f"cuda:{index}", case) for index in range(2))
    for (op, args), (_, args_there) in zip(first, second, strict=True):
        results = results_of(op, args_there)
        assert all(result.device.index == 1 for result in results if result.is_cuda)
        assert_same(op, results, results_of(op, args))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_tensors_on_two_devices_are_refused(at):
    tensors = step_inputs((2, 5), torch.float32, "cuda")
    mixed = [tensor.cpu() if i == at else tensor for i, tensor in enumerate(tensors)]
    with pytest.raises(RuntimeError, match=r"pgd_step: .* must be on|same device"):
        ops.pgd_step(*mixed, eps=0.1, step_size=0.1)


@every_case
def test_calls_that_inductor_compiled_have_no_graph_break_and_the_same_results(case):
    pytest.importorskip("triton")
    operators, arguments = zip(*calls(torch.float32, "cuda", case), strict=True)

    def run(arguments):
        return [results_of(op, args) for op, args in zip(operators, arguments, strict=True)]

    torch.compiler.reset()
    expected = run([copies(args) for args in arguments])
    results = torch.compile(run, fullgraph=True)([copies(args) for args in arguments])
    for op, ours, theirs in zip(operators, results, expected, strict=True):
        assert_same(op, ours, theirs)


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
