"""Fixtures for all tests: the devices at hand, and the backends that were built."""

from collections.abc import Iterator

import pytest
import torch

import fastadv

# A GPU counts where its kernels were built: without them the reference would be compared with itself.
DEVICES = ["cpu"] + ["cuda"] * (torch.cuda.is_available() and "cuda" in fastadv.build_info()["kernels"])
BACKENDS = ["reference"] + ["native"] * (fastadv.backend() == "native")


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """Nets that a test makes have the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES, scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Each device of this machine."""
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that was built, in force during the test."""
    fastadv.backend(request.param)
    yield str(request.param)
    fastadv.backend("auto")


@pytest.fixture
def native() -> None:
    """The test needs compiled kernels."""
    if fastadv.backend() != "native":
        pytest.skip("no kernels were built")
