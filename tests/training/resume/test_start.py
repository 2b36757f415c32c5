"""Where a fit starts, and which folders it leaves alone."""

from __future__ import annotations

import pytest

from lightning_sq.errors import InputError
from lightning_sq.training.resume.start import (
    check_output,
    choose_start,
    is_of_run,
    remove_half_written,
    remove_run,
)
from lightning_sq.training.resume.whole_checkpoint import write_checkpoint


@pytest.fixture
def run(tmp_path):
    """A folder with a run that has both checkpoints."""
    for name in ("config.yaml", "logs/a.csv"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    for name in ("best", "last"):
        write_checkpoint({}, tmp_path / "run/checkpoints" / f"{name}.ckpt")
    return tmp_path / "run"


def test_resuming_takes_the_last_checkpoint_else_the_best_else_starts_anew(run):
    last, best = run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt"
    assert choose_start(run, None, resume=True, overwrite=False) == last
    last.unlink()
    assert choose_start(run, None, resume=True, overwrite=False) == best
    best.unlink()
    assert choose_start(run, None, resume=True, overwrite=False) is None
    other = run.parent / "other.ckpt"
    assert choose_start(run, other, resume=True, overwrite=False) == other
    assert choose_start(run.parent / "new", None, resume=True, overwrite=False) is None


def test_half_of_a_checkpoint_that_a_killed_run_has_left_is_removed_and_nothing_else(run):
    (run / "checkpoints/.last.ckpt.0123.tmp").write_bytes(bytes(100))
    (run / "notes.tmp").touch()
    before = sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))
    remove_half_written(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert (run / "notes.tmp").exists()
    remove_half_written(run.parent / "new")


def test_a_run_that_is_resumed_without_its_last_checkpoint_loses_no_other(run):
    for name in ("last", "best"):
        (run / f"checkpoints/{name}.ckpt").unlink()
    (run / "checkpoints/mine.ckpt").touch()
    with pytest.raises(InputError, match=r"mine\.ckpt.*--ckpt_path"):
        choose_start(run, None, resume=True, overwrite=False)


def test_a_run_whose_checkpoints_are_all_damaged_is_neither_gone_on_with_nor_replaced(run, capsys):
    for name in ("last", "best"):
        (run / f"checkpoints/{name}.ckpt").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"damaged checkpoints alone \(last\.ckpt, best\.ckpt\).*--overwrite"):
        choose_start(run, None, resume=True, overwrite=False)
    assert "a new run starts" not in capsys.readouterr().err
    assert choose_start(run, None, resume=True, overwrite=True) is None


def test_a_checkpoint_of_elsewhere_does_not_open_a_folder_that_holds_a_run(run):
    other, last = run.parent / "other" / "last.ckpt", run / "checkpoints/last.ckpt"
    for ckpt_path in (None, other):
        with pytest.raises(InputError, match="already holds a run"):
            choose_start(run, ckpt_path, resume=False, overwrite=False)
        assert choose_start(run, ckpt_path, resume=False, overwrite=True) == ckpt_path
    assert choose_start(run, last, resume=False, overwrite=False) == last
    assert is_of_run(last, run)
    assert not is_of_run(other, run)
    assert not is_of_run(run / "checkpoints/../../other/last.ckpt", run)


def test_an_output_that_is_a_file_or_lies_in_one_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="is a file"):
            check_output(output)
    check_output(tmp_path / "new" / "run")


def test_what_lightnings_own_requeueing_left_belongs_to_the_old_run(tmp_path):
    write_checkpoint({}, tmp_path / "hpc_ckpt_3.ckpt")
    with pytest.raises(InputError, match="already holds a run"):
        choose_start(tmp_path, None, resume=False, overwrite=False)
    assert is_of_run(tmp_path / "hpc_ckpt_3.ckpt", tmp_path)
    assert not is_of_run(tmp_path / "mine.ckpt", tmp_path)
    assert choose_start(tmp_path, None, resume=True, overwrite=False) == tmp_path / "hpc_ckpt_3.ckpt"
    remove_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
