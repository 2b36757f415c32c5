"""The fixture that the tests of the batch scripts share."""

from __future__ import annotations

import pytest

from tests.slurm.stubs import Scripts


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)
