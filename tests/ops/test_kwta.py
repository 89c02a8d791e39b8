"""kwta: the winners are those of a stable sort; their values, and gradients, pass, and nothing else does."""

import math

import pytest
import torch
from torch import Tensor

import fastadv
from fastadv import ops
from tests.ops.inputs import DTYPES, FIRST_SEED, poison

KINDS = ["normal", "relu", "ties", "equal", "negative", "zeros of both signs", "not numbers"]
# Both sides of every limit: a word of winners, a block of keys, rows without a histogram, rows shared by
# threads; on a GPU a warp's and a block's row.
LENGTHS = [1, 2, 31, 32, 33, 256, 257, 1024, 1025, 4097, 20011, 70001]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PER = {"sample": 1, "channel": 2, "last": -1}


def rows_of(kind: str, rows: int, cols: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(FIRST_SEED + seed)
    x = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    chance = torch.rand(rows, cols, generator=generator)
    if kind == "relu":
        x = x.relu()
    elif kind == "ties":
        x = (2 * x).round()
    elif kind == "equal":
        x = torch.full_like(x, -0.5)
    elif kind == "negative":
        x = -x.abs() - 1e-3
    elif kind == "zeros of both signs":
        x = torch.where(chance < 0.5, -0.0, torch.where(chance < 0.9, 0.0, x))
    elif kind == "not numbers":
        for value, limit in ((-0.0, 0.25), (math.inf, 0.2), (-math.inf, 0.15), (math.nan, 0.05)):
            x = torch.where(chance < limit, value, x)
    return x.to(dtype)


def winners_by_sorting(x: Tensor, k: int, ties: str) -> Tensor:
    """[rows, cols] bool, from a stable sort in descending order, in which NaN come first."""
    order = x.double().sort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(x, dtype=torch.bool).scatter_(1, order.indices[:, :k], True)
    if ties == "all":
        last = order.values[:, k - 1 : k]
        mask |= (x.double() == last) | (x.isnan() & last.isnan())
    return mask


def same_bits(a: Tensor, b: Tensor) -> bool:
    kind = BITS[a.element_size()]
    return a.shape == b.shape and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def check(x: Tensor, k: int, ties: str, device: str) -> None:
    mask = winners_by_sorting(x, k, ties)
    on_device = x.to(device).requires_grad_()
    poison(on_device)
    y = ops.kwta(on_device, k, ties=ties)
    assert same_bits(y.detach().cpu(), torch.where(mask, x, 0)), "values"
    assert torch.equal(ops.kwta_mask(on_device, k, ties=ties).cpu(), mask), "mask"
    upstream = rows_of("normal", *x.shape, x.dtype, seed=1)
    upstream[:, ::3] = math.nan  # must not leak into losers either
    (grad,) = torch.autograd.grad(y, on_device, upstream.to(device))
    assert same_bits(grad.cpu(), torch.where(mask, upstream, 0)), "gradient"


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cols", LENGTHS)
def test_winners_are_those_of_a_stable_sort(cols, kind, dtype, ties, device, native):
    x = rows_of(kind, 3, cols, dtype)
    for k in sorted({1, (cols + 9) // 10, cols // 2 + 1, cols}):
        check(x, k, ties, device)


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_references_winners_are_those_of_a_stable_sort(kind, dtype, ties, device):
    fastadv.backend("reference")
    try:
        check(rows_of(kind, 3, 257, dtype), 26, ties, device)
    finally:
        fastadv.backend("auto")


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
@pytest.mark.parametrize("kind", ["normal", "relu", "ties"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_of_a_million_is_sorted_right(rows, kind, ties, device, native):
    check(rows_of(kind, rows, 1_000_003, torch.float32), 100_000, ties, device)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("ties", ["all", "lowest_index"])
def test_threads_that_share_a_row_agree(threads, ties, native):
    """Pieces of a row, with ties in each: who wins must not depend on where it was cut."""
    x = rows_of("ties", 1, 300_007, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(x, 100_000, ties, "cpu")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_winners_is_met_exactly(dtype, device, backend):
    x = rows_of("ties", 2, 97, dtype).to(device)
    for k in range(1, 98):
        assert (ops.kwta_mask(x, k, ties="lowest_index").sum(1) == k).all()
        assert (ops.kwta_mask(x, k).sum(1) >= k).all()


def test_published_example_keeps_all_ties(device, backend):
    """k = 2 of [3, 2, 2, 2, -1, 0]: the authors' x >= topk keeps four."""
    x = torch.tensor([[3.0, 2, 2, 2, -1, 0]], device=device)
    assert ops.kwta(x, 2).tolist() == [[3, 2, 2, 2, 0, 0]]
    assert ops.kwta(x, 2, ties="lowest_index").tolist() == [[3, 2, 0, 0, 0, 0]]


def test_a_winner_that_is_zero_gets_its_gradient(device, backend):
    x = torch.tensor([[-1.0, 0.0, -2.0, -3.0]], device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.kwta(x, 2).sum(), x)
    assert grad.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("ties", ["all", "lowest_index"])
@pytest.mark.parametrize(
    "layout",
    {
        "contiguous": lambda x: x,
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "permuted": lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "batch inside": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "slice": lambda x: torch.stack([x, x.flip(0)], -1)[..., 0],
        "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
        "expanded": lambda x: x[:1].expand(x.shape),
    }.items(),
    ids=lambda item: item[0],
)
def test_memory_layout_changes_no_winner(layout, ties, per, device, backend):
    x = layout[1](rows_of("ties", 3, 5 * 6 * 7, torch.float32).view(3, 5, 6, 7).to(device))
    first = PER[per]
    flat = x.contiguous().flatten(first) if first > 0 else x.contiguous()
    expected = winners_by_sorting(flat.reshape(-1, flat.shape[-1]), 4, ties).view(x.shape)
    leaf = x.detach().requires_grad_()
    y = ops.kwta(leaf, 4, per=per, ties=ties)
    assert torch.equal(y, torch.where(expected, x, 0))
    assert y.stride() == torch.empty_like(x).stride()
    upstream = torch.randn(x.shape, device=device)
    (grad,) = torch.autograd.grad(y, leaf, upstream)
    assert torch.equal(grad, torch.where(expected, upstream, 0))
    assert torch.equal(ops.kwta_mask(x, 4, per=per, ties=ties), expected)


@pytest.mark.parametrize("shape", [(0, 7), (0, 3, 4, 5)])
def test_an_empty_batch_stays_one(shape, device, backend):
    x = torch.zeros(shape, device=device, requires_grad=True)
    y = ops.kwta(x, 2)
    assert y.shape == shape
    assert torch.autograd.grad(y.sum(), x)[0].shape == shape
    assert ops.kwta_mask(x, 2).shape == shape


def test_channel_winners_are_sample_winners_of_each_channel(device, backend):
    x = rows_of("normal", 4, 3 * 5 * 6, torch.float32).view(4, 3, 5, 6).to(device)
    each = ops.kwta(x.view(12, 1, 5, 6), 7).view(x.shape)
    assert torch.equal(ops.kwta(x, 7, per="channel"), each)


def test_scaling_and_permuting_a_row_scales_and_permutes_its_winners(device, backend):
    x = rows_of("normal", 3, 500, torch.float32).to(device)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0)).to(device)
    y = ops.kwta(x, 50)
    assert torch.equal(ops.kwta(4 * x, 50), 4 * y)
    assert torch.equal(ops.kwta(x[:, order], 50), y[:, order])


def test_a_row_does_not_see_its_batch_mates(device, backend):
    x = rows_of("ties", 9, 1234, torch.float32).to(device)
    assert torch.equal(ops.kwta(x, 99)[4:5], ops.kwta(x[4:5], 99))


@pytest.mark.parametrize("ties", ["all", "lowest_index"])
def test_gradient_is_that_of_finite_differences_away_from_ties(ties, device, backend):
    x = torch.randperm(24, generator=torch.Generator().manual_seed(3)).double().view(2, 12).to(device)
    torch.autograd.gradcheck(lambda v: ops.kwta(v, 3, ties=ties), x.requires_grad_())


def test_straight_through_gives_every_element_its_gradient(device, backend):
    x = rows_of("normal", 2, 100, torch.float32).to(device).requires_grad_()
    upstream = rows_of("normal", 2, 100, torch.float32, seed=1).to(device)
    y = ops.kwta(x, 10, backward="straight_through")
    assert torch.equal(y, ops.kwta(x, 10))
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(grad, upstream)


def test_differentiating_twice_is_refused_with_a_reason(device, backend):
    x = rows_of("normal", 2, 100, torch.float32).to(device).requires_grad_()
    (grad,) = torch.autograd.grad(ops.kwta(x, 10).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="fastadv::kwta: differentiable once only"):
        grad.square().sum().backward()


def test_without_a_gradient_no_bits_are_made_and_with_one_it_is_a_bit_an_element(device, native):
    x = torch.randn(4, 1000, device=device)
    assert torch.ops.fastadv.kwta(x, 10, winners=False)[1].numel() == 0
    words = torch.ops.fastadv.kwta(x, 10)[1]
    assert (words.dtype, words.shape) == (torch.int32, (4, 32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        ops.kwta(x.requires_grad_(), 10)
    assert saved == [4 * 32 * 4]


@pytest.mark.parametrize("backward", ["mask", "straight_through"])
@pytest.mark.parametrize("ties", ["all", "lowest_index"])
def test_compiled_without_a_graph_break_it_gives_the_same(ties, backward, device, backend):
    def loss(x):
        return (ops.kwta(x, 30, per="channel", ties=ties, backward=backward) * x).sum()

    x = rows_of("ties", 2, 3 * 16 * 16, torch.float32).view(2, 3, 16, 16).to(device).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(x), x)
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be 1 .. 12, the length of a row, got 0"),
        ({"k": 13}, ValueError, "k must be 1 .. 12, the length of a row, got 13"),
        ({"k": 5, "per": "channel"}, ValueError, "k must be 1 .. 4"),
        ({"k": 2.0}, TypeError, "k must be an integer, got 2.0"),
        ({"per": "pixel"}, ValueError, "per must be 'sample', 'channel' or 'last', got 'pixel'"),
        ({"ties": "first"}, ValueError, "ties must be 'all' or 'lowest_index', got 'first'"),
        ({"backward": "relu"}, ValueError, "backward must be 'mask' or 'straight_through', got 'relu'"),
        ({"x": torch.zeros(3)}, RuntimeError, r"x must have at least 2 dimensions for per='sample'"),
        ({"x": torch.zeros(3, 4), "per": "channel"}, RuntimeError, "x must have at least 3 dimensions"),
        ({"x": torch.zeros(2, 4, dtype=torch.int64)}, RuntimeError, "x must be float32, float64, float16"),
        ({"x": torch.zeros(2, 0)}, ValueError, "k must be 1 .. 0"),
    ],
)
def test_kwta_refuses(arguments, error, message, backend):
    with pytest.raises(error, match=f"fastadv::kwta: {message}"):
        ops.kwta(**{"x": torch.zeros(2, 3, 2, 2), "k": 1} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("k",), "k must be 1 .. 12, the length of a row, got 13"),
        (("per",), "per must be 'sample', 'channel' or 'last', got 'pixel'"),
        (("ties",), "ties must be 'all' or 'lowest_index', got 'first'"),
        (("backward",), "backward must be 'mask' or 'straight_through', got 'relu'"),
    ],
)
def test_the_operator_itself_refuses_too(arguments, message, device, native):
    wrong = {"k": 13, "per": "pixel", "ties": "first", "backward": "relu"}
    given = {"k": 1} | {name: wrong[name] for name in arguments}
    with pytest.raises(RuntimeError, match=f"fastadv::kwta: {message}"):
        torch.ops.fastadv.kwta(torch.zeros(2, 3, 2, 2, device=device), **given)


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (2,)])
def test_backward_refuses_winners_of_another_shape(shape, device, native):
    grad = torch.zeros(2, 100, device=device)
    with pytest.raises(RuntimeError, match=r"winners must be contiguous int32 of shape \[2, 4\]"):
        torch.ops.fastadv.kwta_backward(grad, torch.zeros(shape, dtype=torch.int32, device=device))
