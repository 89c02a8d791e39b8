"""torchvision's ResNet-50."""

import pickle
from pathlib import Path
from urllib.parse import urlparse

import torch

from ._packages import ModelError, torchvision
from .classifier import Classifier, Normalize
from .labels import imagenet_classes


def resnet50(weights: str | Path | None = None) -> Classifier:
    """ResNet-50 (He et al., CVPR 2016) with ImageNet-1k weights, in eval mode.

    Takes RGB images [B, 3, 224, 224] in [0, 1] and normalises them itself; returns logits [B, 1000].

    Args:
        weights: a state_dict of torchvision's resnet50. None takes torchvision's IMAGENET1K_V1 from its
            cache and, where it is not there, from the network.

    Raises:
        ModelError: there are no weights, or they are not those of a ResNet-50; the message says what to do.
    """
    state = _pretrained() if weights is None else _read(Path(weights))
    network = torchvision("models").resnet50()
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"resnet50: {weights} is not a state_dict of torchvision's resnet50") from error
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return Classifier(network, normalize, input_shape=(3, 224, 224), class_names=imagenet_classes()).eval()


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"resnet50: cannot read the weights {path}: {reason}") from error
    return state


def _pretrained() -> dict[str, torch.Tensor]:
    source = torchvision("models").ResNet50_Weights.IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source.url).path).name
    if cached.is_file():
        return _read(cached)
    try:
        return dict(source.get_state_dict(map_location="cpu", check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"resnet50: its weights are neither in {cached} nor downloadable ({error}): fetch {source.url} "
            "where there is a network and put it there"
        ) from error
