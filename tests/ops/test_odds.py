"""gap_moments and odds_score: the statistics of "The odds are odd"."""

import math

import pytest
import torch
from torch import Tensor

import fastadv
from fastadv import ops, reference
from tests.ops.inputs import DTYPES, FIRST_SEED

SHAPES = [(1, 1, 2), (3, 5, 10), (7, 4, 33), (256, 3, 10), (5, 1, 1000), (0, 3, 4), (4, 0, 4)]  # draws, B, K


def logits(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Clean [B, K] and noisy [draws, B, K], far from 0: what cancels if one is careless."""
    generator = torch.Generator().manual_seed(FIRST_SEED)
    clean = 100 + torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    noisy = clean + 0.01 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return clean.to(device, dtype), noisy.to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_the_definition(shape, dtype, device, backend):
    clean, noisy = logits(shape, dtype, device)
    t = clean.argmax(1)
    a, b = clean.double(), noisy.double()
    rows = torch.arange(len(clean), device=device)
    gaps = (b - b[:, rows, t, None]) - (a - a[rows, t, None])
    total, squares = ops.gap_moments(clean, noisy)
    assert (total.dtype, squares.dtype) == (torch.float64, torch.float64)
    assert torch.allclose(total, gaps.sum(0), rtol=1e-12, atol=1e-11)
    assert torch.allclose(squares, gaps.square().sum(0), rtol=1e-12, atol=1e-11)
    assert (total[rows, t] == 0).all()
    assert (squares[rows, t] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_sums_have_the_references_bits(dtype, device, native):
    clean, noisy = logits((37, 6, 11), dtype, device)
    for ours, expected in zip(
        ops.gap_moments(clean, noisy), reference.gap_moments(clean.cpu(), noisy.cpu()), strict=True
    ):
        assert torch.equal(ours.cpu(), expected)


@pytest.mark.parametrize("chunk", [1, 3, 16, 40])
def test_chunks_of_draws_and_threads_change_no_bit(chunk, device, backend):
    clean, noisy = logits((40, 300, 10), torch.float32, device)
    whole = ops.gap_moments(clean, noisy)
    sums = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in noisy.split(chunk):
            sums = ops.gap_moments(clean, part, sums)
    finally:
        torch.set_num_threads(threads)
    assert sums is not None
    assert all(torch.equal(a, b) for a, b in zip(sums, whole, strict=True))
    one = ops.gap_moments(clean[7:8], noisy[:, 7:8])
    assert torch.equal(one[0], whole[0][7:8])


def test_of_equal_logits_the_first_is_predicted(device, backend):
    clean = torch.tensor([[1.0, 2.0, 2.0], [math.nan, 1.0, 5.0]], device=device)
    noisy = torch.tensor([[[1.0, 3.0, 2.5], [0.0, 0.0, 0.0]]], device=device)
    total, _ = ops.gap_moments(clean, noisy)
    assert total[0].tolist() == [-1.0, 0.0, -0.5]
    assert total[1].isnan().all()  # argmax takes a NaN for the largest, and its gaps are none


def known(kinds: int, rows: int, classes: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(FIRST_SEED + classes)
    gaps = torch.randn(kinds, rows, classes, generator=generator, dtype=torch.float64)
    mean = torch.randn(kinds, classes, classes, generator=generator, dtype=torch.float64)
    std = torch.rand(kinds, classes, classes, generator=generator, dtype=torch.float64) + 0.1
    predicted = torch.randint(classes, (rows,), generator=generator)
    return gaps.to(device), predicted.to(device), mean.to(device), std.to(device)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("kinds", "rows", "classes"), [(1, 1, 2), (3, 7, 10), (2, 5, 1000), (1, 0, 3)])
def test_score_is_the_largest_mean_z_over_the_other_classes(kinds, rows, classes, two_sided, device, backend):
    gaps, predicted, mean, std = known(kinds, rows, classes, device)
    score, towards = ops.odds_score(gaps, predicted, mean, std, two_sided=two_sided)
    for row in range(rows):
        t = int(predicted[row])
        z = ((gaps[:, row] - mean[:, t]) / std[:, t]).mean(0)
        z = z.abs() if two_sided else z
        z[t] = -math.inf
        assert score[row].item() == pytest.approx(z.max().item(), rel=1e-12)
        assert towards[row] == z.argmax()
    assert (score.shape, score.dtype) == ((rows,), torch.float64)
    assert (towards.shape, towards.dtype) == ((rows,), torch.int64)


def test_pairs_of_which_nothing_is_known_do_not_count(device, backend):
    gaps, predicted, mean, std = known(2, 6, 4, device)
    predicted[:3] = 1
    std[0, 1] = math.nan  # nothing is known of class 1
    std[:, 2:, 0] = math.nan
    predicted[3:] = 2
    score, towards = ops.odds_score(gaps, predicted, mean, std)
    assert (score[:3] == -math.inf).all()
    assert score[3:].isfinite().all()
    assert (towards[3:] != 0).all()


@pytest.mark.parametrize("label", [-1, 4, 10**12, -(10**12)])
def test_of_what_is_no_class_nothing_is_known_and_nothing_is_read(label, device, backend):
    gaps, predicted, mean, std = known(2, 3, 4, device)
    predicted[1] = label
    score, _ = ops.odds_score(gaps, predicted, mean, std)
    assert score[1] == -math.inf
    assert score[[0, 2]].isfinite().all()


def test_statistics_are_constants_to_autograd(device, backend):
    clean, noisy = logits((3, 2, 4), torch.float32, device)
    assert not ops.gap_moments(clean.requires_grad_(), noisy.requires_grad_())[0].requires_grad
    gaps, predicted, mean, std = known(1, 2, 3, device)
    assert not ops.odds_score(gaps.requires_grad_(), predicted, mean, std)[0].requires_grad


@pytest.mark.parametrize(
    ("clean", "noisy", "message"),
    [
        (torch.zeros(3), torch.zeros(2, 3), r"clean_logits must be \[B, K\] with K >= 2"),
        (torch.zeros(3, 1), torch.zeros(2, 3, 1), r"clean_logits must be \[B, K\] with K >= 2"),
        (torch.zeros(3, 4), torch.zeros(2, 4, 3), r"noisy_logits must have shape \[draws, 3, 4\]"),
        (torch.zeros(3, 4), torch.zeros(2, 3, 4).double(), "noisy_logits must have the dtype"),
        (torch.zeros(3, 4).long(), torch.zeros(2, 3, 4).long(), "clean_logits must be float32"),
    ],
)
def test_gap_moments_refuses(clean, noisy, message, backend):
    with pytest.raises(RuntimeError, match=f"fastadv::gap_moments: {message}"):
        ops.gap_moments(clean, noisy)
    with pytest.raises(RuntimeError, match="earlier sums must be float64"):
        ops.gap_moments(torch.zeros(3, 4), torch.zeros(2, 3, 4), (torch.zeros(3, 4), torch.zeros(3, 4)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gaps", torch.zeros(2, 3), r"gaps must be \[kinds, B, K\] with K >= 2"),
        ("gaps", torch.zeros(2, 6, 4), "gaps must be"),
        ("predicted", torch.zeros(5, dtype=torch.int64), "predicted must"),
        ("predicted", torch.zeros(6), "predicted must be"),
        ("mean", torch.zeros(2, 4, 5).double(), r"mean must have shape \[2, 4, 4\]"),
        ("std", torch.zeros(2, 4, 4), "std must be"),
    ],
)
def test_odds_score_refuses(name, value, message, backend):
    arguments = dict(zip(("gaps", "predicted", "mean", "std"), known(2, 6, 4, "cpu"), strict=True))
    with pytest.raises(RuntimeError, match=f"fastadv::odds_score: {message}"):
        ops.odds_score(**arguments | {name: value})
    if fastadv.backend() == "native":
        with pytest.raises(RuntimeError, match="fastadv::odds_score: "):
            torch.ops.fastadv.odds_score(*(arguments | {name: value}).values())
