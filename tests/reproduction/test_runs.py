"""Commands side by side: what is done is not done again, what fails says why, what was stopped goes on."""

from __future__ import annotations

import json

import pytest

from lightning_sq.errors import InputError
from lightning_sq.reproduction.runs import Step, run_all, training_curve


def step(folder, name, words, *, key="k"):
    return Step(name, words, folder / name / "done.json", key, 1.0, folder / name / "log.txt", lambda: {"more": 1})


def ran(steps, jobs=2):
    seen = []
    run_all(steps, jobs=jobs, advance=lambda *state: seen.append(state), num_threads=1)
    return seen


def test_a_step_that_is_done_is_not_done_again(tmp_path):
    good = step(tmp_path, "good", ["--version"])
    assert ran([good]) == [(1, 1, "good")]
    marker = json.loads(good.marker.read_text())
    assert (marker["key"], marker["more"], marker["num_threads"]) == ("k", 1, 1)
    assert good.log.read_text().startswith("$ lightning-sq --version\n0.")
    assert ran([good]) == []


def test_a_step_with_other_settings_is_refused_before_anything_runs(tmp_path):
    ran([step(tmp_path, "good", ["--version"])])
    other = step(tmp_path, "other", ["--version"])
    with pytest.raises(InputError, match=r"holds good by other settings .* Add --overwrite"):
        ran([other, step(tmp_path, "good", ["--version"], key="another")])
    assert not other.marker.exists()


def test_a_step_that_fails_says_why_and_leaves_no_marker(tmp_path):
    bad, good = step(tmp_path, "bad", ["evaluate"]), step(tmp_path, "good", ["--version"])
    with pytest.raises(InputError, match=r"bad failed: .*required.* \(see .*bad/log\.txt\)"):
        ran([bad, good])
    assert not bad.marker.exists()


def test_the_curve_goes_over_all_starts_of_a_run(tmp_path):
    head = "epoch,step,train/seconds,val/clean_top1,val/robust_top1\n"
    for version, text in {
        0: "0,9,,0.5,0.1\n0,9,10.0,,\n1,19,,0.6,0.2\n",  # stopped before the end of the second epoch
        1: "1,19,,0.7,0.3\n1,19,21.5,,\n",
    }.items():
        (tmp_path / f"logs/version_{version}").mkdir(parents=True)
        (tmp_path / f"logs/version_{version}/metrics.csv").write_text(head + text)
    assert training_curve(tmp_path) == [
        {"seconds": 10.0, "clean": 0.5, "robust": 0.1},
        {"seconds": 21.5, "clean": 0.7, "robust": 0.3},
    ]
