"""What every command says of counts that cannot be."""

from __future__ import annotations

from argparse import Namespace

import pytest

from lightning_sq.commands.parser import check_at_least_one
from lightning_sq.errors import InputError


def test_counts_are_at_least_one_or_not_given():
    options = Namespace(jobs=1, num_seeds=None, num_images=0, max_epochs=-2)
    check_at_least_one(options, "jobs", "num_seeds")
    with pytest.raises(InputError, match=r"^--num-images 0 is not at least 1\.$"):
        check_at_least_one(options, "jobs", "num_images", "max_epochs")
