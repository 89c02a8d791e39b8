"""EOT: exact on linear models, converging elsewhere, reproducible draw by draw."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastadv import EOT, FGSM, PGD
from fastadv.attacks.randomness import Step
from fastadv.attacks.transforms import Crop, Noise, ResizePad
from tests.attacks.nets import BatchInvariant, Recorder, samples


def step(batch, key=0, number=0):
    return Step(number, 10, key, torch.arange(batch))


def slope(eot, model, x, objective, **where):
    return eot.estimate(model, x, objective, step(len(x), **where))


def of_class(index):
    return lambda logits: logits[:, index]


def cross_entropy(y):
    return lambda logits: F.cross_entropy(logits, y.repeat(len(logits) // len(y)), reduction="none")


def exact(model, x, objective):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(objective(model(x)).sum(), x)[0]


@pytest.mark.parametrize("average", ["loss", "logits"])
@pytest.mark.parametrize("draws", [1, 3, 8])
def test_on_a_linear_model_the_gradient_is_exact_for_any_number_of_draws(draws, average):
    model = nn.Linear(6, 4).double()
    x = samples(5, 6, dtype=torch.float64)
    estimate = slope(EOT(Noise(0.3), draws, average), model, x, of_class(2))
    assert torch.allclose(estimate, model.weight[2].expand(5, 6), rtol=1e-14, atol=0)


@pytest.mark.parametrize("average", ["loss", "logits"])
@pytest.mark.parametrize("transform", [None, lambda x, randomness: x, lambda x: x])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_one_draw_of_the_identity_is_pgd_bit_for_bit(loss, transform, average):
    model, x = BatchInvariant(20), samples(12, 20)
    y = model(x).argmax(1)
    for early_stop in (True, False):
        attack = {"eps": 0.1, "steps": 6, "loss": loss, "restarts": 2, "early_stop": early_stop}
        plain = PGD(**attack).run(model, x, y)
        eot = PGD(**attack, gradient=EOT(transform, 1, average)).run(model, x, y)
        for name in ("x_adv", "success", "loss", "distance"):
            assert torch.equal(getattr(eot, name), getattr(plain, name))
        fgsm = FGSM(eps=0.1, gradient=EOT(transform, 1, average), early_stop=early_stop)(model, x, y)
        assert torch.equal(fgsm, FGSM(eps=0.1, early_stop=early_stop)(model, x, y))


@pytest.mark.parametrize("average", ["loss", "logits"])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_clean_counts_x_itself_as_one_draw_more(average, chunk):
    model, x, y = BatchInvariant(20).double(), samples(6, 20, dtype=torch.float64), torch.arange(6) % 5
    noisy = x + Noise(0.2)(torch.zeros(24, 20).double(), step(6).randomness(range(4))).reshape(4, 6, 20)
    copies = torch.cat((noisy, x[None])).requires_grad_()
    logits = model(copies.flatten(0, 1)).unflatten(0, (5, 6))
    if average == "loss":
        loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(5), reduction="sum") / 5
    else:
        loss = F.cross_entropy(logits.mean(0), y, reduction="sum")
    expected = torch.autograd.grad(loss, copies)[0].sum(0)
    estimate = slope(EOT(Noise(0.2), 4, average, chunk, clean=True), model, x, cross_entropy(y))
    assert torch.allclose(estimate, expected, rtol=1e-10, atol=1e-14)


def test_the_error_shrinks_with_the_root_of_the_number_of_draws():
    """f(x (1 + s u)) of a linear f has the gradient w (1 + s u): mean w, and variance s^2 w^2 / draws."""
    weight = torch.linspace(0.5, 2, 16, dtype=torch.float64)

    def model(x):
        return torch.stack((x @ weight, torch.zeros(len(x), dtype=x.dtype)), 1)

    def scaled(x, randomness):
        return x * (1 + 0.5 * randomness.normal(1, dtype=x.dtype))

    x = samples(2000, 16, dtype=torch.float64)
    for draws in (1, 4, 16, 64):
        factors = slope(EOT(scaled, draws), model, x, of_class(0))[:, 0] / weight[0] - 1
        # 2000 independent errors: their root mean square is known to 1.6 %, the bound is 4 of these.
        assert factors.square().mean().sqrt().item() == pytest.approx(0.5 / draws**0.5, rel=0.064)


def test_mean_loss_and_loss_of_the_mean_differ_as_documented():
    """Two draws x + a and x - a of a loss of the logits: L'(z + a), L'(z - a) averaged, and L'(z)."""

    def pair(x, randomness):
        return x + torch.tensor([1.5, -1.5], dtype=x.dtype).repeat_interleave(len(x) // 2)[:, None]

    def model(x):
        return torch.cat((x, torch.zeros_like(x)), 1)

    x = samples(4, 1, dtype=torch.float64)

    def objective(logits):
        return F.softplus(logits[:, 0])

    mean_of_slopes = ((x + 1.5).sigmoid() + (x - 1.5).sigmoid()) / 2
    assert torch.allclose(slope(EOT(pair, 2), model, x, objective), mean_of_slopes)
    assert torch.allclose(slope(EOT(pair, 2, "logits"), model, x, objective), x.sigmoid())
    assert not torch.allclose(mean_of_slopes, x.sigmoid(), rtol=1e-2)


@pytest.mark.parametrize("average", ["loss", "logits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_no_bit(average, dtype):
    model, x = BatchInvariant(20), samples(6, 20, dtype=dtype)
    y = torch.arange(6) % 5
    whole = slope(EOT(Noise(0.1), 10, average), model, x, cross_entropy(y))
    assert whole.dtype == torch.float32
    for chunk in (1, 3, 10, 99):
        chunked = slope(EOT(Noise(0.1), 10, average, chunk), model, x, cross_entropy(y))
        assert torch.equal(chunked, whole)


def test_each_chunk_is_one_batched_forward_and_every_row_a_query():
    x, y = samples(4, 20), torch.tensor([0, 1, 2, 3])
    for eot, sizes in (
        (EOT(Noise(0.1), 10), [4, 40]),
        (EOT(Noise(0.1), 10, chunk=4), [4, 16, 16, 8]),
        (EOT(Noise(0.1), 10, "logits"), [4, 40]),
        (EOT(Noise(0.1), 10, "logits", 6), [4, 24, 16, 24, 16]),
    ):
        recorder = Recorder(BatchInvariant(20))
        attack = PGD(eps=0.1, steps=3, gradient=eot, early_stop=False)
        result = attack.run(recorder, x, y)
        assert [len(seen) for seen in recorder.inputs] == 3 * sizes + [4]
        assert (result.queries == 3 * sum(sizes) // 4 + 1).all()


def test_solved_samples_cost_no_draws():
    model, x = BatchInvariant(20), samples(10, 20)
    y = model(x).argmax(1)
    y[::2] = (y[::2] + 1) % 5
    recorder = Recorder(model)
    result = PGD(eps=0.1, steps=1, random_start=False, gradient=EOT(Noise(0.1), 7)).run(recorder, x, y)
    assert [len(seen) for seen in recorder.inputs] == [10, 35, 5]
    assert torch.equal(result.queries, torch.tensor([1, 9] * 5))


def test_success_is_the_models_answer_for_x_adv_itself_not_for_a_copy():
    model, x = BatchInvariant(20), samples(30, 20)
    y = model(x).argmax(1)
    recorder = Recorder(model)
    result = PGD(eps=0.02, steps=4, gradient=EOT(Noise(0.5), 4)).run(recorder, x, y)
    fooled_by_noise = [model(seen).argmax(1) != y.repeat(4) for seen in recorder.inputs if len(seen) == 120]
    assert fooled_by_noise[0].any()
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    assert not result.success.all()


def test_a_model_that_is_random_inside_gets_a_draw_of_its_own_for_each_copy():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, x):
            gain = 1 + torch.randn(len(x), 1, generator=self.generator, dtype=x.dtype)
            return torch.cat((gain * x, torch.zeros_like(x)), 1)

    x = samples(50, 1, dtype=torch.float64)
    gains = slope(EOT(None, 400), Noisy(), x, of_class(0)).squeeze(1)
    assert gains.std() > 0
    assert (gains - 1).abs().max() < 4 / 400**0.5  # 50 normal errors of standard deviation 1 / 20


def test_input_noise_averages_out_ripples_that_hide_the_slope_from_autograd():
    """Why it breaks k-WTA: ripples of slope 10 over a slope of 1 are gone from the mean over noise."""
    slopes = torch.tensor([1.0, -1.0] * 8)

    def model(x):
        score = (slopes * x + 0.05 * (200 * x).sin()).sum(1)
        return torch.stack((score, torch.zeros_like(score)), 1)

    x = samples(20, 16)
    uphill = (exact(model, x, of_class(0)).sign() == slopes.sign()).float().mean()
    assert 0.4 < uphill < 0.65
    # Each draw's error has a standard deviation of 10 / sqrt(2): 0.22 after 1000 draws, for a slope of 1.
    estimate = slope(EOT(Noise(0.1), 1000, chunk=100), model, x, of_class(0))
    assert torch.equal(estimate.sign(), slopes.sign().expand(20, 16))


@pytest.mark.parametrize(
    "transform", [ResizePad(10, 14), Crop(6), Crop(6, resize=True), Noise(0.1)], ids=repr
)
def test_a_sample_meets_the_same_draws_in_any_batch(transform):
    seen = {}

    def model(x):
        seen.setdefault("rows", []).append(x.detach().clone())
        return x.mean((2, 3))

    x = samples(6, 3, 8, 8)
    everyone = step(6, key=3, number=2)
    EOT(transform, 4).estimate(model, x, of_class(0), everyone)
    order = torch.tensor([5, 2])
    some = Step(2, 10, 3, order)
    EOT(transform, 4, chunk=3).estimate(model, x[order], of_class(0), some)
    whole, *chunked = seen["rows"]
    expected = whole.unflatten(0, (4, 6))[:, order]
    assert torch.equal(torch.cat([rows.unflatten(0, (-1, 2)) for rows in chunked]), expected)
    assert len(expected.flatten(0, 1).unique(dim=0)) > 2


def test_seeds_restarts_and_steps_draw_anew():
    def model(x):
        seen.append(x.detach().clone())
        return torch.cat((0 * x[:, :1], 1 + 0 * x[:, :1]), 1)  # no slope: the iterates stay where they are

    seen = []
    x, y = samples(3, 20), torch.tensor([1, 1, 1])
    for seed in (5, 6):
        PGD(eps=0.0, steps=2, restarts=2, gradient=EOT(Noise(0.1), 2), seed=seed)(model, x, y)
    drawn = torch.cat([rows for rows in seen if len(rows) == 6])
    assert len(drawn) == 48
    assert len(drawn.unique(dim=0)) == 48


def test_a_transform_of_one_argument_gets_x_alone():
    def halved(x, scale=0.5):
        return x * scale

    x = samples(4, 6)
    model = nn.Linear(6, 3)
    for transform, factor in ((halved, 0.5), (torch.neg, -1.0), (nn.Flatten(), 1.0)):
        estimate = slope(EOT(transform, 2), model, x, of_class(1))
        assert torch.allclose(estimate, factor * model.weight[1].expand(4, 6))


def test_channels_last_copies_stay_channels_last():
    x = samples(4, 3, 8, 8).to(memory_format=torch.channels_last)

    def model(z):
        assert z.is_contiguous(memory_format=torch.channels_last)
        return z.mean((2, 3))

    slope(EOT(None, 3), model, x, of_class(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 1), TypeError, "EOT: transform must be a callable or None, got 3"),
        ((None, 0), ValueError, "EOT: draws must be an integer of at least 1, got 0"),
        ((None, 1.5), ValueError, "EOT: draws must be an integer of at least 1, got 1.5"),
        ((None, 2, "mean"), ValueError, "EOT: average must be 'loss' or 'logits', got 'mean'"),
        ((None, 2, "loss", 0), ValueError, "EOT: chunk must be an integer of at least 1 or None, got 0"),
    ],
)
def test_bad_fields_are_refused_when_made(arguments, error, message):
    with pytest.raises(error, match=message):
        EOT(*arguments)


def test_a_transform_that_loses_rows_is_refused():
    attack = PGD(eps=0.1, gradient=EOT(lambda x: x[:1], 3), early_stop=False)
    with pytest.raises(ValueError, match=r"EOT: transform must return a tensor \[12, ...\], got \[1, 6\]"):
        attack(BatchInvariant(6), samples(4, 6))


def test_attacks_with_eot_are_values():
    one, other = (PGD(eps=0.1, gradient=EOT(Noise(0.1), 3)) for _ in range(2))
    assert one == other
    assert hash(EOT(Noise(0.1), 3)) == hash(EOT(Noise(0.1), 3))
    assert PGD(eps=0.1, gradient=EOT(Noise(0.2), 3)) != one
    assert math.isclose(one.gradient.transform.scale, 0.1)
