"""Weights of the tests."""

import numpy as np
import pytest


@pytest.fixture
def problem():
    """Makes weights and curvatures of a shape in float32."""

    def make(*shape, seed=0):
        random = np.random.default_rng(seed)
        w = random.normal(size=shape).astype(np.float32)
        d = random.lognormal(size=shape).astype(np.float32)
        return w, d

    return make
