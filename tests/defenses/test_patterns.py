import pytest
import torch
from torch import nn

from fastadv import KWTA, ops
from fastadv.defenses import activation_pattern
from tests.attacks.nets import Norms


def test_the_pattern_is_the_set_of_winners_and_of_positive_inputs_in_the_order_of_the_calls(backend):
    net = nn.Sequential(nn.Linear(6, 10), KWTA(0.3), nn.Linear(10, 8), nn.ReLU(inplace=True), nn.ReLU6())
    x = torch.rand(4, 6)
    pattern = activation_pattern(net, x)
    first = net[0](x)
    second = net[2](net[1](first))
    assert list(pattern) == ["1", "3", "4"]
    assert torch.equal(pattern["1"], ops.kwta_mask(first, 3))
    assert torch.equal(pattern["3"], second > 0)
    assert torch.equal(pattern["4"], second > 0)


def test_a_winner_that_is_zero_is_on(backend):
    pattern = activation_pattern(nn.Sequential(KWTA(0.5)), torch.tensor([[-1.0, 0.0, -2.0, 0.0]]))
    assert pattern["0"].tolist() == [[False, True, False, True]]


def test_images_are_laid_out_in_logical_order_one_row_for_each(backend):
    x = torch.randn(2, 3, 4, 5)
    for per, k in (("sample", 30), ("channel", 10), ("last", 2)):
        net = nn.Sequential(KWTA(0.5, per))
        pattern = activation_pattern(net, x.contiguous(memory_format=torch.channels_last))["0"]
        assert torch.equal(pattern, ops.kwta_mask(x, k, per=per).flatten(1))


def test_nothing_of_the_model_changes():
    net = nn.Sequential(Norms(), nn.ReLU())
    net[0].drop.eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(3, 3, 8, 8)
    first, second = activation_pattern(net, x), activation_pattern(net, x)
    assert torch.equal(first["1"], second["1"])
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_hooks_are_removed_where_the_model_fails():
    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        activation_pattern(net, torch.rand(1, 4))
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("whole", [True, False], ids=["the net", "a part"])
def test_the_pattern_of_a_compiled_net_that_has_run_is_that_of_the_net(whole):
    part = nn.Sequential(nn.Linear(6, 10), KWTA(0.3), nn.Linear(10, 4), nn.ReLU())
    net, x = nn.Sequential(part), torch.rand(4, 6)
    expected = activation_pattern(net, x)
    torch._dynamo.reset()
    compiled = (
        torch.compile(net, backend="eager") if whole else nn.Sequential(torch.compile(part, backend="eager"))
    )
    with torch.no_grad():
        before = compiled.eval()(x)
    pattern = activation_pattern(compiled, x)
    assert [name.replace("_orig_mod.", "") for name in pattern] == list(expected)
    assert all(torch.equal(a, b) for a, b in zip(pattern.values(), expected.values(), strict=True))
    with torch.no_grad():
        assert torch.equal(compiled(x), before)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="no KWTA or ReLU module ran"):
        activation_pattern(nn.Linear(3, 2), torch.rand(1, 3))
