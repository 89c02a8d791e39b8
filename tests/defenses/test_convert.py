import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn import functional as F

from fastadv import BPDA, KWTA
from fastadv.defenses import activation_pattern, convert, functional_relus


class Shared(nn.Module):
    """One ReLU under two names, called three times."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 20), nn.Linear(20, 4)
        self.relu = nn.ReLU()
        self.again = self.relu

    def forward(self, x):
        return self.again(self.second(self.relu(self.first(self.relu(x)))))


class Functional(nn.Module):
    """Three functional calls and no ReLU module."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(28, 10)

    def forward(self, x):
        return self.linear(F.relu(F.relu(F.relu(x))).mean((1, 2)))


class Mixed(nn.Module):
    """A ReLU module beside functional calls of every spelling, one of them in a submodule."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.inner = Functional()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        x = F.relu6(torch.relu(self.relu(self.norm(x)))).relu()
        return self.inner(F.relu(torch.relu_(x), inplace=True).relu_())


def test_every_relu_of_a_net_is_replaced_but_those_skipped_by_name_or_pattern():
    def net():
        return nn.Sequential(
            nn.Linear(4, 4),
            nn.ReLU(),
            nn.Sequential(nn.ReLU6(), nn.ReLU()),
            nn.ModuleDict({"act": nn.ReLU()}),
        )

    model = net()
    assert convert(model, 0.2, per="last") == ["1", "2.0", "2.1", "3.act"]
    assert not [module for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    assert {(m.gamma, m.per) for m in model.modules() if isinstance(m, KWTA)} == {(0.2, "last")}
    assert convert(net(), 0.2, skip="2.*") == ["1", "3.act"]
    assert convert(net(), 0.2, skip=["1", "*.1"]) == ["2.0", "3.act"]


def test_torchvision_s_resnet_whose_blocks_call_one_relu_twice_becomes_a_kwta_net():
    net = torchvision.models.resnet18().eval()
    x = torch.rand(1, 3, 64, 64)
    names = convert(net, 0.1, skip="relu", example=x)
    assert names == [f"layer{layer}.{block}.relu" for layer in range(1, 5) for block in range(2)]
    pattern = activation_pattern(net, x)
    assert list(pattern)[:3] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    for on in list(pattern.values())[1:]:
        assert int(on.sum()) == max(1, int(0.1 * on.shape[1]))
    assert len(pattern) == 17


def test_a_relu_that_is_called_at_several_places_counts_its_winners_at_each():
    net = Shared()
    assert convert(net, 0.25) == ["relu", "again"]
    assert net.relu is net.again
    pattern = activation_pattern(net, torch.rand(3, 6))
    assert {name: on.sum(1).tolist() for name, on in pattern.items()} == {
        "relu": [1] * 3,
        "relu#2": [5] * 3,
        "relu#3": [1] * 3,
    }


def test_a_relu_with_two_names_is_kept_under_the_one_that_is_skipped():
    net = Shared()
    assert convert(net, 0.25, skip="again") == ["relu"]
    assert isinstance(net.relu, KWTA)
    assert isinstance(net.again, nn.ReLU)


def test_weights_modes_and_keys_of_parameters_stay():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    convert(net, 0.5)
    assert [module.training for module in net] == [True, False, True, True]
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_functional_relus_of_every_spelling_are_seen_and_the_modules_own_are_not():
    net = Mixed()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(2, 1, 28, 28)
    calls = ["relu", "relu6", "relu", "relu_", "relu", "relu_"]
    expected = [f"{call} in Mixed" for call in calls] + ["relu in inner"] * 3
    assert functional_relus(net, x) == expected
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert net.training and net.norm.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert functional_relus(Shared(), torch.rand(1, 6)) == []


class Retrying(nn.Module):
    """A net that calls its ReLU with what it cannot take first."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        try:
            self.relu("no tensor")
        except TypeError:
            return F.relu(self.relu(x))


def test_a_call_is_seen_after_a_relu_module_has_failed():
    assert functional_relus(Retrying(), torch.rand(1, 6)) == ["relu in Retrying"]


def test_with_an_example_a_net_that_would_be_half_converted_is_refused_and_left_as_it_was():
    net = Mixed()
    with pytest.raises(ValueError, match=r"half converted, .* calls relu in Mixed, relu6 in Mixed.*in inner"):
        convert(net, 0.1, example=torch.rand(1, 1, 28, 28))
    assert isinstance(net.relu, nn.ReLU)
    assert convert(net, 0.1) == ["relu"]


class Listed(nn.Module):
    """A net whose forward pass reaches its ReLU, a module under a name, through a list."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.calls = [self.relu]

    def forward(self, x):
        return self.calls[0](x)


def test_with_an_example_a_net_that_still_calls_the_relu_that_was_replaced_is_refused_and_restored():
    net = nn.Sequential(nn.TransformerEncoder(transformer_layer(), 2), Listed())
    before, flags = dict(net.named_modules()), fused_flags(net)
    with pytest.raises(ValueError, match=r"half converted, .* calls relu in 1: make nn.ReLU modules"):
        convert(net, 0.1, per="last", example=torch.rand(1, 5, 8))
    assert dict(net.named_modules()) == before
    assert fused_flags(net) == flags


def test_a_net_that_fails_on_the_example_once_it_is_converted_is_restored():
    net = Shared()
    with pytest.raises(RuntimeError, match="3 dimensions for per='channel'"):
        convert(net, 0.1, per="channel", example=torch.rand(1, 6))
    assert isinstance(net.relu, nn.ReLU)
    assert net.again is net.relu


def test_functional_relus_of_a_compiled_net_that_has_run_are_seen():
    net, x = Mixed().eval(), torch.rand(2, 1, 28, 28)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(x)
    assert len(functional_relus(compiled, x)) == 9


@pytest.mark.parametrize("substitute", [nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
def test_the_substitute_of_a_bpda_is_not_converted(substitute):
    net = nn.Sequential(BPDA(nn.ReLU(), substitute), nn.ReLU())
    assert convert(net, 0.5) == ["0.layer", "1"]
    assert isinstance(net[0].layer, KWTA)
    assert not any(isinstance(module, KWTA) for module in net[0].substitute.modules())
    whole = BPDA(nn.Sequential(nn.ReLU()), substitute)
    assert convert(whole, 0.5) == ["layer.0"]
    with pytest.raises(ValueError, match=r"model has no nn.ReLU"):
        convert(nn.Sequential(BPDA(torch.round, substitute)), 0.5)


def test_hooks_are_removed_where_the_model_fails_on_the_example():
    net = Shared()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        functional_relus(net, torch.rand(1, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            Functional(),
            {},
            r"nothing to replace: model has no nn.ReLU or nn.ReLU6 module \(calls of functional",
        ),
        (Shared(), {"skip": ("*",)}, "nothing to replace: every ReLU is skipped"),
        (Shared(), {"skip": ["relu", "stem.relu"]}, "skip matches no ReLU: stem.relu; there is relu, again"),
        (Functional(), {"skip": "stem.relu"}, "skip matches no ReLU: stem.relu; there is none"),
        (nn.ReLU(), {}, "model is itself a ReLU"),
        (Shared(), {"gamma": 0}, r"gamma must be in \(0, 1\], got 0"),
        (Shared(), {"per": "row"}, "per must be one of"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_anything_is_replaced(model, arguments, message):
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        convert(model, **{"gamma": 0.1, **arguments})
    assert repr(model) == before


def test_a_converted_net_is_not_converted_twice():
    net = Shared()
    convert(net, 0.1)
    with pytest.raises(ValueError, match="nothing to replace"):
        convert(net, 0.2)


def transformer_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, activation=nn.ReLU(), batch_first=True)


def fused_flags(net):
    flags = ("activation_relu_or_gelu", "use_nested_tensor")
    return [getattr(module, flag, None) for module in net.modules() for flag in flags]


def test_a_converted_transformer_computes_the_same_in_its_fast_path_as_outside_of_it():
    net = transformer_layer().eval()
    x = torch.rand(2, 5, 8)
    assert convert(net, 0.1, per="last") == ["activation"]
    with torch.no_grad():
        fast = net(x)
    torch.testing.assert_close(fast, net(x))


def test_a_converted_transformer_takes_padded_sequences_at_inference():
    net = nn.TransformerEncoder(transformer_layer(), 2).eval()
    x, padding = torch.rand(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    other = nn.TransformerEncoder(transformer_layer(), 2)
    convert(net, 0.1, per="last")
    with torch.no_grad():
        fast = net(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[~padding], net(x, src_key_padding_mask=padding)[~padding])
    convert(nn.Sequential(other, nn.ReLU()), 0.1, skip="0.*")
    assert other.use_nested_tensor
