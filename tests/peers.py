"""The peer libraries, each for the tests that need it."""

import importlib
import os
import warnings

import pytest


def imported(name: str):
    """The peer's module, without the warnings of its import; the test is skipped where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("ADVLIB_REQUIRE_PEERS"):  # `make test` installs them: a peer that breaks is a failure
                raise
            pytest.skip(f"{name} cannot be imported ({error}): pip install --no-deps -r requirements-peers.lock")
