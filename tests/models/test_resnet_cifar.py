from functools import partial

import pytest
import torch
from torch import nn

from fastadv import KWTA
from fastadv.defenses import activation_pattern, convert
from fastadv.models import CifarResNet, cifar_resnet18


def test_the_published_shape_has_sixteen_kwta_layers_of_four_lengths_and_a_relu_in_the_stem():
    pattern = activation_pattern(cifar_resnet18(activation=partial(KWTA, 0.1)), torch.rand(1, 3, 32, 32))
    assert next(iter(pattern)) == "stem.relu"
    layers = list(pattern.values())[1:]
    assert [on.shape[1] for on in layers] == [65536] * 4 + [32768] * 4 + [16384] * 4 + [8192] * 4
    assert [int(on.sum()) for on in layers] == [6553] * 4 + [3276] * 4 + [1638] * 4 + [819] * 4


def test_the_published_shape_has_the_parameters_of_a_resnet18_for_small_images():
    net = cifar_resnet18()
    # Stem and four stages without biases, two numbers per channel for each norm, and a linear layer of 512.
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_173_962
    assert all(layer.bias is None for layer in net.modules() if isinstance(layer, nn.Conv2d))


def test_on_images_of_32_pixels_the_pool_averages_the_last_4_by_4():
    net = CifarResNet((1, 1, 1, 1), width=4).eval()
    x = torch.rand(2, 3, 32, 32)
    features = net.stages(net.stem(x))
    assert features.shape == (2, 32, 4, 4)
    pooled = nn.functional.avg_pool2d(features, 4).flatten(1)
    torch.testing.assert_close(net(x), net.classifier(pooled))


@pytest.mark.parametrize(
    ("blocks", "width", "channels", "classes", "size"),
    [((1,), 1, 1, 2, 28), ((1, 2), 8, 1, 10, 28), ((2, 1, 1), 4, 3, 5, 33), ((2, 2, 2, 2), 2, 3, 10, 1)],
)
def test_small_nets_take_images_of_any_size(blocks, width, channels, classes, size):
    net = CifarResNet(blocks, width, channels, classes)
    assert net(torch.rand(2, channels, size, size)).shape == (2, classes)
    stages = [stage[0].conv1.out_channels for stage in net.stages]
    assert stages == [width * 2**stage for stage in range(len(blocks))]


def test_every_activation_is_an_instance_of_its_own_so_that_all_but_the_stem_can_be_replaced():
    net = cifar_resnet18()
    assert len({id(module) for module in net.modules() if isinstance(module, nn.ReLU)}) == 17
    replaced = convert(net, 0.1, skip="stem.relu", example=torch.rand(1, 3, 8, 8))
    assert replaced == [f"stages.{s}.{b}.act{a}" for s in range(4) for b in range(2) for a in (1, 2)]
    assert type(net.stem.relu) is nn.ReLU


def test_a_block_adds_its_shortcut_before_the_last_activation():
    block = CifarResNet((1, 1), width=2).stages[1][0].eval()
    x = torch.randn(1, 2, 8, 8)
    nn.init.zeros_(block.norm2.weight)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())


@pytest.mark.parametrize("bad", [{"blocks": ()}, {"blocks": (1, 0)}, {"width": 0}, {"num_classes": 0}])
def test_a_net_without_layers_channels_or_classes_is_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1, got "):
        CifarResNet(**bad)
