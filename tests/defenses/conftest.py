"""A net and its samples for tests of the detector."""

import pytest

from tests.attacks.nets import BatchInvariant, samples


@pytest.fixture(scope="module")
def net():
    return BatchInvariant(20, classes=4, seed=5)  # every class is predicted for some of the samples


@pytest.fixture(scope="module")
def x():
    return samples(400, 20)
