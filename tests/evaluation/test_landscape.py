import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastadv.defenses import convert
from fastadv.evaluation.landscape import landscape, roughness
from fastadv.models import CifarResNet
from tests.attacks.nets import BatchInvariant, Norms, samples


def test_the_axes_are_the_sign_of_the_gradient_and_one_random_sign_for_each_pixel():
    model, x, y = BatchInvariant(12), samples(2, 3, 4), torch.tensor([0, 3])
    seen = []

    def watched(batch):
        if not batch.requires_grad:
            seen.append(batch.clone())
        return model(batch)

    losses = landscape(watched, x, y, 0.2, points=5, chunk=7)
    points = torch.cat(seen).view(2, 5, 5, 3, 4)
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), y, reduction="sum"), start)
    ticks = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2]).view(5, 1, 1)
    for i in range(2):
        torch.testing.assert_close(points[i, :, 2], x[i] + ticks * gradient[i].sign())
        random = (points[i, 2, 4] - x[i]) / 0.2
        torch.testing.assert_close(random.abs(), torch.ones(3, 4))
        torch.testing.assert_close(points[i, 2, :], x[i] + ticks * random)
        torch.testing.assert_close(points[i, 4, 4], x[i] + 0.2 * (gradient[i].sign() + random))
        assert -12 < random.sum() < 12
    expected = F.cross_entropy(
        model(points.flatten(0, 2)).double(), y.repeat_interleave(25), reduction="none"
    )
    assert losses.dtype == torch.float64
    torch.testing.assert_close(losses, expected.view(2, 5, 5))


def test_the_loss_grows_along_the_gradient_of_a_linear_model():
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    losses = landscape(lambda x: x @ weight.T, samples(4, 20), torch.tensor([0, 1, 2, 0]), 0.1, points=9)
    assert (losses.diff(dim=1) > 0).all()


def test_chunks_seeds_and_batch_mates_change_what_they_should_and_nothing_else():
    model, x, y = BatchInvariant(12), samples(3, 12), torch.tensor([0, 3, 1])
    losses = landscape(model, x, y, 0.2, points=6)
    assert torch.equal(landscape(model, x, y, 0.2, points=6, chunk=5), losses)
    assert torch.equal(landscape(model, x[:1], y[:1], 0.2, points=6)[0], losses[0])
    assert not torch.equal(landscape(model, x, y, 0.2, points=6, seed=1), losses)


def test_nothing_of_the_user_s_changes():
    model, x = Norms().train(), samples(2, 3, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, generator = x.clone(), torch.get_rng_state()
    landscape(model, x, torch.tensor([0, 1]), 0.1, points=3)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert model.training and model.drop.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_landscape_of_k_wta_is_many_times_rougher_than_that_of_relu():
    torch.manual_seed(0)
    relu = CifarResNet((1, 1), width=8, in_channels=1)
    kwta = CifarResNet((1, 1), width=8, in_channels=1)
    kwta.load_state_dict(relu.state_dict())
    convert(kwta, 0.1, skip="stem.relu")
    x, y = samples(4, 1, 16, 16), torch.arange(4)
    smooth, rough = (roughness(landscape(net, x, y, 0.03)) for net in (relu, kwta))
    assert (rough > 3 * smooth).all()


def test_roughness_is_zero_for_a_plane_and_the_root_of_three_for_noise():
    s, t = torch.meshgrid(torch.arange(50.0), torch.arange(50.0), indexing="ij")
    noise = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    rough = roughness(torch.stack([2 * s - 3 * t, noise, (s / 20).sin() * (t / 20).cos()]))
    assert rough[0] == 0
    assert rough[1].item() == pytest.approx(3**0.5, rel=0.05)
    assert 0 < rough[2] < 0.1


def test_progress_ends_with_all_points_done():
    steps = []
    landscape(BatchInvariant(4), samples(2, 4), torch.tensor([0, 1]), 0.1, points=3, chunk=4,
              on_step=lambda *step: steps.append(step))  # fmt: skip
    assert steps == [(4, 18), (8, 18), (9, 18), (13, 18), (17, 18), (18, 18)]


class Flat(nn.Module):
    def forward(self, x):
        return torch.eye(2)[[0] * len(x)] + 0 * x.flatten(1)[:, :2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0}, "landscape: eps must be positive and finite, got 0"),
        ({"eps": float("inf")}, "landscape: eps must be positive and finite, got inf"),
        ({"eps": float("nan")}, "landscape: eps must be positive and finite, got nan"),
        ({"points": 1}, "landscape: points must be an integer of at least 2, got 1"),
        ({"points": 2.5}, "landscape: points must be an integer of at least 2, got 2.5"),
        ({"chunk": 0}, "landscape: chunk must be an integer of at least 1, got 0"),
        ({"chunk": -1}, "landscape: chunk must be an integer of at least 1, got -1"),
        ({"y": torch.tensor([0, 1])}, r"y must have shape \[1\], got \[2\]"),
        ({"model": Flat()}, "gradient at sample 0 is 0 everywhere: it has no direction"),
        ({"model": lambda x: x.detach()}, "no gradient reaches x"),
    ],
)
def test_what_has_no_landscape_is_refused(change, message):
    arguments = {"model": BatchInvariant(4), "x": samples(1, 4), "y": torch.tensor([0]), "eps": 0.1}
    with pytest.raises(ValueError, match=message) as raised:
        landscape(**{**arguments, **change})
    assert "\n" not in str(raised.value)
