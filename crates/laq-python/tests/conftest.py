"""Weights of the tests, and the packages that must be there."""

import importlib
import os

import numpy as np
import pytest


def pytest_configure():
    """Tests of PyTorch and ONNX are skipped without them, unless ``LAQ_TEST_REQUIRE`` lists them."""
    for name in os.environ.get("LAQ_TEST_REQUIRE", "").split(","):
        if name.strip() in ("torch", "onnxscript"):
            importlib.import_module(name.strip())


@pytest.fixture
def problem():
    """Makes weights and curvatures of a shape in float32."""

    def make(*shape, seed=0):
        random = np.random.default_rng(seed)
        w = random.normal(size=shape).astype(np.float32)
        d = random.lognormal(size=shape).astype(np.float32)
        return w, d

    return make
