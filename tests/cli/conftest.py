"""Fixtures of the command line's tests."""

import numpy as np
import pytest
from PIL import Image

from tests.cli.harness import MODELS


@pytest.fixture
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.py"
    path.write_text(MODELS)
    return path


@pytest.fixture
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(3):
        path = folder / f"picture{number}.png"
        levels = np.random.default_rng(number).integers(80, 176, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path)
        paths.append(path)
    return paths
