import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastadv
from fastadv import KWTA, ops
from fastadv.defenses import set_gamma


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_net(gamma=0.25, **settings):
    """A bias-free net: convolution, k-WTA, linear, k-WTA, linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            KWTA(gamma, **settings),
            nn.Flatten(),
            nn.Linear(6 * 6 * 6, 20, bias=False),
            KWTA(gamma),
            nn.Linear(20, 4, bias=False),
        )


@pytest.mark.parametrize(
    ("gamma", "length", "k"),
    [(0.1, 65536, 6553), (0.1, 8192, 819), (0.29, 100, 28), (1, 7, 7), (0.1, 9, 1), (1e-9, 5, 1)],
)
def test_the_product_of_gamma_and_the_row_s_length_is_cut_to_a_whole_number_and_is_at_least_one(
    backend, gamma, length, k
):
    x = torch.randperm(length, generator=torch.Generator().manual_seed(0)).float()[None] + 1
    assert int((KWTA(gamma)(x) > 0).sum()) == k


@pytest.mark.parametrize(("per", "length"), [("sample", 60), ("channel", 20), ("last", 5)])
@pytest.mark.parametrize("ties", ["all", "lowest_index"])
def test_the_layer_is_the_operator_with_the_k_of_its_rows(backend, per, length, ties):
    x = drawn(2, 3, 4, 5).round(decimals=1)
    expected = ops.kwta(x, int(0.4 * length), per=per, ties=ties)
    assert torch.equal(KWTA(0.4, per, ties)(x), expected)
    assert torch.equal(
        KWTA(0.4, per, ties).pattern(x), ops.kwta_mask(x, int(0.4 * length), per=per, ties=ties)
    )


def test_the_gradient_goes_to_the_winners_or_straight_through_to_all(backend):
    x = drawn(2, 10).requires_grad_()
    upstream = drawn(2, 10, seed=1)
    layer = KWTA(0.3)
    (gradient,) = torch.autograd.grad(layer(x), x, upstream)
    assert torch.equal(gradient, torch.where(layer.pattern(x), upstream, 0))
    (gradient,) = torch.autograd.grad(KWTA(0.3, backward="straight_through")(x), x, upstream)
    assert torch.equal(gradient, upstream)


@pytest.mark.parametrize("gamma", [0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_gamma_outside_zero_to_one_is_refused_when_made_and_when_changed(gamma):
    with pytest.raises(ValueError, match=r"KWTA: gamma must be in \(0, 1\], got "):
        KWTA(gamma)
    layer = KWTA(0.5)
    with pytest.raises(ValueError, match=r"KWTA: gamma must be in \(0, 1\], got "):
        layer.gamma = gamma
    assert layer.gamma == 0.5


def test_other_bad_arguments_are_refused_in_one_line():
    with pytest.raises(TypeError, match=r"gamma must be a number in \(0, 1\], got '0.1'"):
        KWTA("0.1")
    with pytest.raises(ValueError, match="per must be one of sample, channel, last, got 'row'"):
        KWTA(0.1, per="row")
    with pytest.raises(ValueError, match="ties must be one of all, lowest_index, got 'first'"):
        KWTA(0.1, ties="first")
    with pytest.raises(ValueError, match="backward must be one of mask, straight_through, got 'identity'"):
        KWTA(0.1, backward="identity")
    with pytest.raises(RuntimeError, match="3 dimensions for per='channel'"):
        KWTA(0.1, per="channel")(torch.rand(2, 5))


def test_a_layer_says_its_settings():
    assert repr(KWTA(0.1)) == "KWTA(gamma=0.1, per='sample', ties='all', backward='mask')"


def test_scaling_the_input_of_a_net_without_biases_scales_its_output(backend):
    net, x = small_net(), drawn(4, 3, 8, 8)
    for scale in (0.5, 4.0, 2.0**-20):  # powers of two: exact in floating point
        assert torch.equal(net(scale * x), scale * net(x))


def test_winners_follow_their_elements_when_these_are_permuted(backend):
    x = drawn(3, 40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(KWTA(0.2)(x[:, order]), KWTA(0.2)(x)[:, order])


@pytest.mark.parametrize("per", ["sample", "channel", "last"])
def test_a_sample_s_winners_do_not_depend_on_its_batch_mates(backend, per):
    x = drawn(5, 3, 4, 6)
    layer = KWTA(0.3, per)
    alone = torch.cat([layer(sample[None]) for sample in x])
    assert torch.equal(layer(x), alone)
    loud = x.clone()
    loud[1:] *= 1000
    assert torch.equal(layer(loud)[0], layer(x)[0])


def test_channels_last_images_keep_their_format_and_their_winners(backend):
    x = drawn(2, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    out = KWTA(0.3)(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, KWTA(0.3)(x.contiguous()))


def test_under_autocast_the_layer_takes_and_gives_the_dtype_of_the_layer_before(backend):
    net, x = small_net(), drawn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = net[0](x)
        out = net[1](hidden)
        logits = net(x)
    assert hidden.dtype == out.dtype == logits.dtype == torch.bfloat16
    assert torch.equal(out, KWTA(0.25)(hidden))


def test_a_compiled_net_has_no_graph_break_and_follows_gamma_without_being_compiled_again(backend):
    net, x = small_net(), drawn(2, 3, 8, 8)
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=count)
    outputs = []
    for gamma in (0.5, 0.25, 0.29, 0.1, 0.05):
        set_gamma(net, gamma)
        outputs.append(compiled(x))
        assert torch.equal(outputs[-1], net(x))
    assert not any(torch.equal(outputs[0], other) for other in outputs[1:])
    assert len(graphs) == 2  # one for the first gamma, one for all others


def test_a_layer_compiled_to_machine_code_gives_the_same_gradient_at_every_gamma(native):
    layer, x = KWTA(0.5), drawn(2, 60).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for gamma in (0.5, 0.29):
        layer.gamma = gamma
        (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
        (gradient,) = torch.autograd.grad(compiled(x).square().sum(), x)
        assert torch.equal(gradient, expected)


def test_an_exported_net_takes_any_batch_size(backend):
    net = small_net().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (drawn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    x = drawn(5, 3, 8, 8, seed=1)
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("per", ["sample", "channel", "last"])
def test_an_exported_net_takes_images_of_any_size_and_counts_its_winners_in_each(backend, per, strict):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), KWTA(0.29, per)).eval()
    open_sizes = {0: torch.export.Dim("B"), 2: torch.export.Dim("H"), 3: torch.export.Dim("W")}
    sizes = [(2, 3, 40, 41), (3, 3, 50, 34), (1, 3, 33, 64)]
    if per == "last":  # whose length cannot be left open
        del open_sizes[3]
        sizes = [(2, 3, 40, 41), (3, 3, 50, 41), (1, 3, 33, 41)]
    program = torch.export.export(
        net, (drawn(2, 3, 40, 41),), dynamic_shapes=(open_sizes,), strict=strict
    ).module()
    for size in sizes:
        x = drawn(*size, seed=1)
        assert torch.equal(program(x), net(x))


def test_distributed_training_gives_the_gradients_of_training_alone(backend):
    net, x = small_net(), drawn(2, 3, 8, 8)
    net(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(net)(x).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_loading_a_state_restores_the_gamma_that_the_net_was_trained_with():
    trained = small_net(0.2)
    set_gamma(trained, 0.075)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    net = small_net(0.5)
    net.load_state_dict(torch.load(file, weights_only=True))
    assert [net[1].gamma, net[4].gamma] == [0.075, 0.075]
    x = drawn(2, 3, 8, 8)
    assert torch.equal(net(x), trained(x))


def test_weights_of_a_relu_net_load_strictly_and_leave_gamma_as_it_is():
    relu = small_net()
    relu[1], relu[4] = nn.ReLU(), nn.ReLU()
    net = small_net(0.125)
    assert not any(net.load_state_dict(relu.state_dict()))
    assert [net[1].gamma, net[4].gamma] == [0.125, 0.125]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"0.weight\""):
        net.load_state_dict({})


@pytest.mark.parametrize("gamma", [None, 0.075])
def test_a_net_that_is_made_without_memory_takes_its_weights_and_gamma_from_a_state(gamma):
    trained = small_net()
    if gamma is None:
        trained[1], trained[4] = nn.ReLU(), nn.ReLU()
    else:
        set_gamma(trained, gamma)
    with torch.device("meta"):
        net = small_net(0.125)
        net.load_state_dict(trained.state_dict(), assign=True)
        assert net.state_dict()["1._extra_state"].device.type == "cpu"
    assert [net[1].gamma, net[4].gamma] == [gamma or 0.125] * 2
    assert net(drawn(2, 3, 8, 8)).shape == (2, 4)


def test_an_averaged_net_gets_the_gamma_that_is_set_on_it():
    net, x = small_net(0.5), drawn(2, 3, 8, 8)
    average = torch.optim.swa_utils.AveragedModel(net)
    assert set_gamma(net, 0.1) == set_gamma(average, 0.1) == 2
    average.update_parameters(net)
    assert torch.equal(average(x), net(x))


def test_weights_of_a_kwta_net_do_not_silently_become_those_of_a_relu_net():
    relu = small_net()
    relu[1], relu[4] = nn.ReLU(), nn.ReLU()
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"1._extra_state\""):
        relu.load_state_dict(small_net().state_dict())
    relu.load_state_dict(small_net().state_dict(), strict=False)


def test_a_state_with_an_impossible_gamma_is_refused():
    state = small_net().state_dict()
    state["1._extra_state"] = torch.tensor(2.0)
    with pytest.raises(ValueError, match="gamma must be in"):
        small_net().load_state_dict(state)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_the_same_settings_and_a_gamma_of_its_own(copied):
    net = small_net(0.2, per="channel", ties="lowest_index", backward="straight_through")
    twin = copied(net)
    assert repr(twin) == repr(net)
    set_gamma(twin, 0.1)
    assert net[1].gamma == 0.2


def test_set_gamma_sets_every_layer_says_how_many_and_refuses_a_net_without_any():
    net = nn.Sequential(small_net(), small_net())
    assert set_gamma(net, 0.05) == 4
    assert {module.gamma for module in net.modules() if isinstance(module, KWTA)} == {0.05}
    with pytest.raises(ValueError, match="set_gamma: model has no KWTA module, it is a Sequential"):
        set_gamma(nn.Sequential(nn.ReLU()), 0.1)
    with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\], got 2"):
        set_gamma(net, 2)


def test_an_attack_reaches_the_pixels_through_the_layer():
    net, x, y = small_net(), torch.rand(4, 3, 8, 8), torch.arange(4)
    x_adv = fastadv.PGD(eps=0.1, steps=5, early_stop=False)(net, x, y)
    assert ((x_adv - x).abs() > 0).flatten(1).any(1).all()
