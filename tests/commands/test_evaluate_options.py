"""What `lightning-sq evaluate` does where an option is left out."""

from __future__ import annotations

import pytest

from lightning_sq.commands.evaluate_options import parse, usual_batch_size


@pytest.mark.parametrize(("images", "size"), [(1, 1), (7, 2), (64, 16), (100, 25), (500, 125), (513, 128)])
def test_few_images_are_four_batches_so_that_processes_can_share_them(images, size):
    assert usual_batch_size(images) == size


def test_a_batch_size_that_is_left_out_is_left_open():
    words = ["net.ckpt", "--data", "images", "--output", "runs/x"]
    assert parse(words).batch_size is None
    assert parse([*words, "--batch-size", "7"]).batch_size == 7
