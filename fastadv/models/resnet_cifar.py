"""ResNets for small images, with an activation of one's choice.

He et al., "Deep residual learning for image recognition", CVPR 2016, in the form in which Xiao, Zhong and
Zheng (ICLR 2020) put k-WTA into it: a 3x3 stem without pooling, and an activation of its own after the first
norm and after the sum of each block.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        """With random weights; `inputs` and `outputs` are channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        self.act2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out)) + self.shortcut(x)
        activated: Tensor = self.act2(out)
        return activated


class CifarResNet(nn.Module):
    """Stem, stages of basic blocks, average pool, linear layer.

    The stem's activation is a ReLU, as in the published nets; all others are instances of their own, made by
    `activation`, so that each can be named, replaced and watched: "stages.0.1.act2".
    """

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        in_channels: int = 3,
        num_classes: int = 10,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        """With random weights, by PyTorch's defaults.

        Args:
            blocks: how many basic blocks each stage has. A stage halves height and width, the first one
                excepted, and doubles the channels.
            width: channels of the stem and of the first stage.
            in_channels: of the images.
            num_classes: K.
            activation: called without arguments for each activation, as in `partial(KWTA, 0.1)`.

        Raises:
            ValueError: there are no stages, or a number is below 1.
        """
        super().__init__()
        if not blocks or min(*blocks, width, in_channels, num_classes) < 1:
            raise ValueError(
                f"CifarResNet: blocks, width, in_channels and num_classes must be at least 1, "
                f"got {tuple(blocks)}, {width}, {in_channels} and {num_classes}"
            )
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
            )
        )
        self.stages = nn.Sequential()
        inputs = width
        for stage, repeats in enumerate(blocks):
            outputs = width * 2**stage
            layers = nn.Sequential()
            for repeat in range(repeats):
                stride = 2 if stage > 0 and repeat == 0 else 1
                layers.append(BasicBlock(inputs, outputs, stride, activation))
                inputs = outputs
            self.stages.append(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] of any size -> logits [B, num_classes]."""
        features = self.pool(self.stages(self.stem(x)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def cifar_resnet18(num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU) -> CifarResNet:
    """The ResNet-18 of Xiao et al. (2020) for images [B, 3, 32, 32], with random weights.

    With `activation=partial(KWTA, 0.1)` it is their k-WTA net: 16 such layers, four each of 65536, 32768,
    16384 and 8192 elements, and a ReLU in the stem.
    """
    return CifarResNet(num_classes=num_classes, activation=activation)
