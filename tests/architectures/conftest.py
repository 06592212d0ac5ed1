"""Images for the tests of DCSNet."""

import pytest
import torch
from support.dcsnet import SIZE


@pytest.fixture
def images():
    """Two random images with one channel."""
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(2))
