"""Who keeps the others waiting."""

from __future__ import annotations

import pytest

from lightning_sq.errors import InputError
from lightning_sq.training.watchdog import check_hang_seconds, missing


def test_a_process_whose_beat_has_stopped_is_named():
    earlier = {0: ["8", "1", "a"], 1: ["8", "1", "b"], 2: ["8", "0", "b"]}
    later = {0: ["9", "1", "a"], 1: ["8", "1", "b"], 2: ["9", "1", "b"]}
    assert missing(earlier, later) == ["process 1 on b shows no sign of life"]


def test_a_process_that_beats_and_does_not_wait_is_named():
    earlier, later = {0: ["8", "1", "a"], 1: ["8", "0", "b"]}, {0: ["9", "1", "a"], 1: ["9", "0", "b"]}
    assert missing(earlier, later) == ["process 1 on b is alive and does not come"]
    later[1][1] = "1"
    assert missing(earlier, later) == ["every process waits"]


def test_no_time_at_all_is_refused():
    with pytest.raises(InputError, match="hang_seconds=0"):
        check_hang_seconds(0)
