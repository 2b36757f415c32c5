"""Who keeps the others waiting."""

from __future__ import annotations

import pytest

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.watchdog import check_hang_seconds, missing


def test_a_process_whose_beat_has_stopped_is_named():
    earlier = {0: ["8", "5", "a"], 1: ["8", "5", "b"], 2: ["8", "5", "b"]}
    later = {0: ["8", "5", "a"], 1: ["8", "5", "b"], 2: ["9", "5", "b"]}
    assert missing(earlier, later, own=0) == ["process 1 on b shows no sign of life"]


def test_a_process_that_beats_and_is_behind_is_named():
    earlier, later = {0: ["8", "5", "a"], 1: ["8", "4", "b"]}, {0: ["8", "5", "a"], 1: ["9", "4", "b"]}
    assert missing(earlier, later, own=0) == ["process 1 on b is alive and does not come to batch 5"]
    later[1][1] = "5"
    assert missing(earlier, later, own=0) == ["every process is inside the same batch"]


def test_no_time_at_all_is_refused():
    with pytest.raises(InputError, match="hang_seconds=0"):
        check_hang_seconds(0)
