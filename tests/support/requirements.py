"""What a test needs and this machine may lack."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.servers import MissingServerError


@contextmanager
def needed() -> Iterator[None]:
    """Skip a test that needs a missing server; in CI, fail."""
    try:
        yield
    except MissingServerError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
