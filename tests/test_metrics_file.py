"""What a training has logged is read as one curve, however often it was started."""

from __future__ import annotations

import os

from lightning_sq.metrics_file import read_rows, training_curve
from lightning_sq.reproduction.runs import CURVE

HEAD = "epoch,step,train/seconds,val/clean_top1,val/robust_top1\n"


def test_the_curve_goes_over_all_starts_of_a_run(tmp_path):
    for version, text in {
        9: "0,9,,0.5,0.1\n0,9,10.0,,\n1,19,,0.6,0.2\n",  # stopped before the end of the second epoch
        10: "1,19,,0.7,0.3\n1,19,21.5,,\n",
    }.items():
        file = tmp_path / f"logs/version_{version}/metrics.csv"
        file.parent.mkdir(parents=True)
        file.write_text(HEAD + text)
        os.utime(file, (version, version))
    assert training_curve(tmp_path, CURVE) == [
        {"seconds": 10.0, "clean": 0.5, "robust": 0.1},
        {"seconds": 21.5, "clean": 0.7, "robust": 0.3},
    ]
    assert training_curve(tmp_path, {"val/robust_top1": "robust"}) == [{"robust": 0.1}, {"robust": 0.3}]


def test_rows_are_without_their_empty_cells(tmp_path):
    file = tmp_path / "metrics.csv"
    assert read_rows(file) == []
    file.write_text(HEAD + "0,9,,0.5,\n,10,,,\n")
    assert read_rows(file) == [{"epoch": "0", "step": "9", "val/clean_top1": "0.5"}, {"step": "10"}]


def test_before_anything_is_logged_there_is_no_curve(tmp_path):
    assert training_curve(tmp_path, CURVE) == []
