"""BPDA: exact forward, substituted derivative, and defenses without a gradient that fall to it."""

import copy
import importlib.metadata

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastadv import BPDA, PGD, models
from fastadv.attacks.transforms import JPEG, BitDepth
from fastadv.models.images import samples as digits
from tests.attacks.nets import BatchInvariant, samples


def gradient(function, x, upstream):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, upstream)[0]


def upstream_like(y):
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [torch.round, BitDepth(3), JPEG(75)], ids=repr)
def test_forward_is_the_layers_bit_for_bit_and_the_identitys_gradient_is_the_upstream_one(layer, dtype):
    x = samples(2, 3, 16, 16, dtype=dtype)
    wrapped = BPDA(layer)
    assert torch.equal(wrapped(x), layer(x))
    assert wrapped(x).dtype == dtype
    assert torch.equal(wrapped(x.clone().requires_grad_()), layer(x))
    upstream = upstream_like(x)
    assert torch.equal(gradient(wrapped, x, upstream), upstream)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), F.gelu]
)
def test_with_the_layer_itself_as_substitute_the_gradient_is_autograds(layer):
    x = samples(2, 3, 8, 8)
    upstream = upstream_like(layer(x))
    assert torch.equal(gradient(BPDA(layer, layer), x, upstream), gradient(layer, x, upstream))


def test_the_substitute_is_differentiated_at_the_layers_own_input():
    x = 4 * samples(2, 6)
    wrapped = nn.Sequential(nn.Softplus(), BPDA(torch.round, torch.square))
    expected = 2 * F.softplus(x) * x.sigmoid() * upstream_like(x)
    assert torch.allclose(gradient(wrapped, x, upstream_like(x)), expected)


def in_place(x):
    return x.mul_(2).sub_(1).relu_()


@pytest.mark.parametrize("layer", [in_place, nn.ReLU(inplace=True), nn.Hardtanh(-0.1, 0.1, inplace=True)])
def test_a_layer_that_works_in_place_changes_neither_x_nor_where_the_substitute_is_differentiated(layer):
    x = samples(2, 6) - 0.5
    before, upstream = x.clone(), upstream_like(x)
    wrapped = BPDA(layer, torch.square)
    assert torch.equal(wrapped(x), layer(x.clone()))
    assert torch.equal(x, before)
    assert torch.equal(gradient(wrapped, x, upstream), 2 * x * upstream)
    assert torch.equal(gradient(BPDA(layer), x, upstream), upstream)


def test_a_substitute_that_works_in_place_is_differentiated_as_one_that_does_not():
    x = samples(2, 6) - 0.5
    upstream = upstream_like(x)
    for wrapped in (BPDA(torch.round, nn.ReLU(inplace=True)), BPDA(torch.round, in_place)):
        y = wrapped.substitute(x.clone())
        assert torch.equal(
            gradient(wrapped, x, upstream), upstream * (y > 0) * (1 + (wrapped.substitute is in_place))
        )


@pytest.mark.parametrize("substitute", [None, torch.tanh], ids=["identity", "substitute"])
@pytest.mark.parametrize(
    "layer", [torch.round, nn.Identity(), lambda x: x.view_as(x), lambda x: x.view(-1).view_as(x)]
)
def test_what_comes_after_may_work_in_place(layer, substitute):
    x = samples(2, 6) - 0.5
    before, upstream = x.clone(), upstream_like(x)
    wrapped = BPDA(layer, substitute)
    overwritten = nn.Sequential(wrapped, nn.ReLU(inplace=True))
    assert torch.equal(overwritten(x), layer(x).relu())
    assert torch.equal(gradient(overwritten, x, upstream), gradient(lambda x: wrapped(x).relu(), x, upstream))
    assert torch.equal(x, before)


def test_no_gradient_reaches_the_parameters_of_layer_or_substitute_but_those_before_get_theirs():
    before, layer, substitute = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    BPDA(layer, substitute)(before(samples(2, 4))).sum().backward()
    assert all(p.grad is None for p in [*layer.parameters(), *substitute.parameters()])
    expected = torch.autograd.grad(substitute(before(samples(2, 4))).sum(), before.weight)[0]
    assert torch.equal(before.weight.grad, expected)


def test_the_layer_runs_without_gradients():
    def layer(x):
        assert not torch.is_grad_enabled()
        return x.round()

    assert BPDA(layer)(samples(2, 4).requires_grad_()).requires_grad


def test_the_substitute_does_not_run_in_the_forward_pass():
    def substitute(x):
        raise AssertionError("run")

    y = BPDA(torch.round, substitute)(samples(2, 4).requires_grad_())
    with pytest.raises(AssertionError, match="run"):
        y.sum().backward()


def test_modules_inside_share_modes_state_and_copies():
    wrapped = nn.Sequential(BPDA(nn.BatchNorm2d(3), nn.Dropout(0.5)), nn.Conv2d(3, 4, 1))
    assert {"0.layer.weight", "0.layer.running_mean"} <= set(wrapped.state_dict())
    assert not any(module.training for module in copy.deepcopy(wrapped).eval().modules())
    assert all(module.training for module in wrapped.modules())
    other = nn.Sequential(BPDA(nn.BatchNorm2d(3), nn.Dropout(0.5)), nn.Conv2d(3, 4, 1))
    other.load_state_dict(wrapped.state_dict())
    x = samples(2, 3, 4, 4)
    assert torch.equal(other.eval()(x), copy.deepcopy(wrapped).eval()(x))


def test_an_attack_sees_layer_and_substitute_in_eval_mode_and_restores_their_modes():
    class Watched(nn.Identity):
        def forward(self, x):
            modes.append(self.training)
            return x

    modes = []
    model = nn.Sequential(BPDA(Watched(), Watched()), nn.Linear(6, 3))
    PGD(eps=0.1, steps=2, early_stop=False)(model, samples(4, 6))
    assert len(modes) == 1 + 2 * 2 + 1  # the prediction; forward and backward of each step; the last iterate
    assert not any(modes)
    assert all(module.training for module in model.modules())


def test_the_substitute_runs_under_the_autocast_of_the_forward_pass():
    seen = []

    def substitute(x):
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return linear(x)

    linear = nn.Linear(4, 4)
    x = samples(2, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = BPDA(linear, substitute)(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert seen == [(True, torch.bfloat16)]
    assert x.grad.dtype == torch.float32
    BPDA(linear, substitute)(x).sum().backward()
    assert seen[1][0] is False


@pytest.mark.parametrize("after", [nn.ReLU(), nn.ReLU(inplace=True)], ids=["copied", "overwritten"])
@pytest.mark.parametrize("layer", [torch.round, nn.Identity(), nn.ReLU(inplace=True)], ids=str)
@pytest.mark.parametrize("substitute", [None, nn.Tanh()], ids=["identity", "module"])
def test_compiled_output_and_gradient_are_those_of_eager(substitute, layer, after):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), BPDA(layer, substitute), after, nn.Linear(4, 3))
    x = samples(2, 4)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=substitute is None)
    assert torch.allclose(compiled(x), model(x))
    upstream = upstream_like(model(x))
    assert torch.allclose(gradient(compiled, x, upstream), gradient(model, x, upstream))


def test_a_quantised_net_gives_pgd_nothing_and_falls_to_bpda_like_the_net_alone():
    net, x = BatchInvariant(64), samples(40, 64)
    quantise = BitDepth(3)
    y = net(quantise(x)).argmax(1)
    attack = PGD(eps=0.15, steps=20, random_start=False)

    class Quantised(nn.Module):
        def forward(self, x):
            return net(quantise(x))

    plain = attack.run(Quantised(), x, y)
    assert torch.equal(plain.x_adv, x)
    assert not plain.success.any()
    broken = attack.run(nn.Sequential(BPDA(quantise), net), x, y)
    undefended = attack.run(net, x, net(x).argmax(1))
    assert undefended.success.float().mean() > 0.9
    assert broken.success.float().mean() > undefended.success.float().mean() - 0.1
    assert torch.equal(broken.success, net(quantise(broken.x_adv)).argmax(1) != y)


@pytest.mark.parametrize("defense", [BitDepth(3), JPEG(75)], ids=repr)
def test_a_digit_classifier_behind_a_preprocessor_falls_to_bpda_like_the_classifier_alone(defense):
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    if missing := {"advertorch", "foolbox"} - installed:
        pytest.skip(f"not installed: {missing}")
    net = models.mnist_lenet5()
    x, y = digits("mnist")
    attack = PGD(eps=0.3, steps=20, random_start=False)
    undefended = attack.run(net, x, y)
    assert undefended.success.float().mean() >= 0.9
    result = attack.run(nn.Sequential(BPDA(defense), net), x, y)
    assert result.success.float().mean() >= undefended.success.float().mean() - 0.1
    assert torch.equal(net(defense(result.x_adv)).argmax(1) != y, result.success)


def test_jpeg_and_bit_depth_are_what_they_are_called():
    x = samples(3, 1, 16, 24)
    assert torch.equal(BitDepth(1)(x), (x > 0.5).float())
    assert set((BitDepth(2)(x) * 3).flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.allclose(BitDepth(8)(x), x, atol=0.5001 / 255)
    smooth = torch.linspace(0.2, 0.8, 24).expand(3, 1, 16, 24).contiguous()
    assert JPEG(95)(smooth).sub(smooth).abs().max() < 3 / 255
    assert JPEG(10)(x).sub(x).abs().mean() > JPEG(90)(x).sub(x).abs().mean()
    colours = samples(2, 3, 16, 24)
    assert JPEG(75)(colours).shape == colours.shape
    assert torch.equal((JPEG(75)(colours) * 255).round() / 255, JPEG(75)(colours))
    assert torch.equal(JPEG(75)(colours)[1:], JPEG(75)(colours[1:]))
    assert JPEG(75)(colours[:0]).shape == (0, 3, 16, 24)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BPDA(3), TypeError, "BPDA: forward must be a module or callable, got 3"),
        (
            lambda: BPDA(torch.round, 3),
            TypeError,
            "BPDA: backward must be a module, a callable or None, got 3",
        ),
        (lambda: BPDA(lambda x: x.int())(torch.ones(2)), TypeError, "floating-point tensor, got torch.int32"),
        (lambda: BPDA(lambda x: (x,))(torch.ones(2)), TypeError, "floating-point tensor, got tuple"),
        (
            lambda: BPDA(torch.sum)(torch.ones(2)),
            ValueError,
            r"keep the shape \[2\] .* got \[\]: give a subst",
        ),
        (lambda: JPEG(0), ValueError, "JPEG: quality must be an integer of at least 1, got 0"),
        (lambda: JPEG(96), ValueError, "JPEG: quality must be at most 95, got 96"),
        (
            lambda: JPEG()(torch.ones(2, 5)),
            ValueError,
            r"JPEG: x must be images \[N, C, H, W\], got shape \[2, 5\]",
        ),
        (lambda: JPEG()(torch.ones(1, 2, 8, 8)), ValueError, "JPEG: x must have 1 or 3 channels, got 2"),
        (lambda: BitDepth(0), ValueError, "BitDepth: bits must be an integer of at least 1, got 0"),
        (lambda: BitDepth(9), ValueError, "BitDepth: bits must be at most 8, got 9"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("substitute", "message"),
    [
        (
            lambda x: x.sum(1),
            r"BPDA: backward must return the shape of forward's output, \[2, 4\], got \[2\]",
        ),
        (torch.ones_like, "BPDA: backward must be differentiable, but its output does not depend on x"),
    ],
)
def test_a_substitute_that_does_not_fit_is_refused_when_it_is_used(substitute, message):
    y = BPDA(torch.round, substitute)(samples(2, 4).requires_grad_())
    with pytest.raises(ValueError, match=message):
        y.sum().backward()
