"""Models by name, and a user's own by where its factory is."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import nn

from ._packages import ModelError
from .efficientnet import efficientnet_lite0
from .mnist import mnist_lenet5
from .resnet import resnet50
from .text import FAILURES, brief

REGISTRY: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "resnet50": resnet50,
    "mnist_lenet5": mnist_lenet5,
    "mnist_lenet5_adversarial": partial(mnist_lenet5, "adversarial"),
}


def load(spec: str) -> nn.Module:
    """The model that `spec` means, in eval mode.

    Args:
        spec: a name in `REGISTRY`, or a factory of your own, called without arguments:
            "package.module:callable" or "path/to/file.py:callable". Naming a file runs it.
            The factory returns an `nn.Module` from images in [0, 1] to logits [B, K]; where it has the
            attributes of `Classifier`, `input_shape` and `class_names`, images are shown and answers
            are read accordingly.

    Raises:
        ModelError: nothing is there, or it does not make an `nn.Module`; one line that says which.
    """
    if spec in REGISTRY:
        return REGISTRY[spec]()
    module_name, colon, attribute = spec.rpartition(":")
    if not (module_name and attribute):
        problem = "no such model" if not colon else "incomplete"
        choice = f"{', '.join(REGISTRY)}, or module:callable, or file.py:callable"
        raise ModelError(f"{spec!r}: {problem}; give one of {choice}")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ModelError(f"{module_name} has no attribute {attribute!r}")
    if not callable(factory):
        raise ModelError(f"{spec} is not callable, it is a {type(factory).__name__}")
    try:
        model = factory()
    except ModelError:
        raise
    except FAILURES as error:
        raise ModelError(f"{spec}() raised {brief(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec}() returned a {type(model).__name__}, expected a torch.nn.Module")
    return model.eval()


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            path = f"./{name.replace('.', '/')}.py"
            raise ModelError(
                f"no module named {name!r}; for a file give its path, {path}:callable"
            ) from error
        raise ModelError(f"importing {name} raised {brief(error)}") from error
    except FAILURES as error:
        raise ModelError(f"importing {name} raised {brief(error)}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"no file {path}")
    specification = importlib.util.spec_from_file_location(f"fastadv_model_{path.stem}", path.resolve())
    assert specification is not None and specification.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(specification)
    # Like a script, the file may import what lies beside it, and its classes must be found by their module.
    sys.modules[specification.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        specification.loader.exec_module(module)
    except FAILURES as error:
        raise ModelError(f"running {path} raised {brief(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
