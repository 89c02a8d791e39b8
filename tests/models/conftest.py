from importlib import metadata

import pytest

from fastadv.models import EXAMPLE_PACKAGES


@pytest.fixture(scope="session")
def example_packages():
    """Skips what needs real weights and images where the packages that carry them are not installed."""
    installed = {distribution.name for distribution in metadata.distributions()}
    if missing := EXAMPLE_PACKAGES.keys() - installed:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
