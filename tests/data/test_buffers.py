from __future__ import annotations

import torch

from lightning_sq.data.buffers import KEPT, Buffers


def test_memory_is_used_again_only_when_no_view_of_it_is_left():
    buffers = Buffers()
    first = buffers.take(3, 2)
    place = first.data_ptr()
    view = first.view(6)[2:]
    view.fill_(7)
    del first
    second = buffers.take(3, 2)
    assert second.data_ptr() != place
    second.zero_()
    assert view.tolist() == [7] * 4
    del view
    assert buffers.take(3, 2).data_ptr() == place


def test_a_tensor_of_another_shape_gets_memory_of_its_own():
    buffers = Buffers()
    buffers.take(2, 2).fill_(1)
    larger = buffers.take(5, 5)
    assert larger.shape == (5, 5)
    assert larger.dtype == torch.float32


def test_no_more_is_kept_than_a_training_needs():
    buffers = Buffers()
    held = [buffers.take(2) for _ in range(3 * KEPT)]
    held.clear()
    assert len(buffers._free) == KEPT
