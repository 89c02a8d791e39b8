"""Real networks, with their normalisation inside them, and the images that go with them."""

from . import datasets, images
from ._packages import EXAMPLE_PACKAGES, ModelError
from .classifier import Classifier, Normalize
from .efficientnet import efficientnet_lite0
from .labels import class_name, find_class, imagenet_classes
from .mnist import mnist_lenet5
from .registry import REGISTRY, load
from .resnet import resnet50
from .resnet_cifar import CifarResNet, cifar_resnet18

__all__ = [
    "EXAMPLE_PACKAGES",
    "REGISTRY",
    "CifarResNet",
    "Classifier",
    "ModelError",
    "Normalize",
    "cifar_resnet18",
    "class_name",
    "datasets",
    "efficientnet_lite0",
    "find_class",
    "imagenet_classes",
    "images",
    "load",
    "mnist_lenet5",
    "resnet50",
]
