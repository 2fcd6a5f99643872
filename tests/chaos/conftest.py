"""Fixtures of the tests that strike sweeps."""

import pytest
from struck import undisturbed
from sweeping import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    return undisturbed(data, tmp_path_factory.mktemp("whole") / "results")
