"""`lightning-sq data check` and `lightning-sq demo`, without the long steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lightning_sq.__main__ import main
from lightning_sq.commands import demo
from tests.conftest import REPOSITORY


def test_data_check_prints_unreadable_images_and_empty_classes_by_their_whole_names(few_digits, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    (data / "train/[bold]ant").mkdir()
    (data / "val/[bold]ant").mkdir()
    (data / "val/3/[red]x.jpg").write_bytes(b"")
    assert main(["data", "check", str(data)]) == 2
    printed = capsys.readouterr()
    assert f"unreadable: {data}/val/3/[red]x.jpg: empty\n" in printed.out
    assert f"class without a readable image: {data}/train/[bold]ant\n" in printed.out
    assert "90 images in 11 classes, 0 to 9 a class" in printed.out
    assert "1 unreadable image and 2 empty class folders in" in printed.err


@pytest.fixture
def steps(monkeypatch) -> list[tuple[str, ...]]:
    taken = []
    monkeypatch.setattr(demo, "_run", lambda *words: taken.append(tuple(map(str, words))))
    return taken


def run_demo(output: Path, *options: str) -> int:
    return main(["demo", "--configs", str(REPOSITORY / "configs"), "--output", str(output), *options])


@pytest.mark.parametrize("mistake", [("--epsilon", "8"), ("--num-images", "0"), ("--max-epochs", "-1")])
def test_the_demo_refuses_a_mistake_before_its_first_step(tmp_path, steps, capsys, mistake):
    assert run_demo(tmp_path / "demo", *mistake) == 2
    assert mistake[0] in capsys.readouterr().err
    assert steps == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["natural/checkpoints/last.ckpt", "release/model.safetensors", "report.html"])
def test_the_demo_never_overwrites_what_it_did_not_make(tmp_path, steps, capsys, name):
    path = tmp_path / "demo" / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    (tmp_path / "demo/DEMO.txt").write_text("My own notes.")
    assert run_demo(tmp_path / "demo") == 2
    assert "Give another --output." in capsys.readouterr().err
    assert steps == []
    assert path.read_text() == "years of work"


def test_the_demo_overwrites_a_demo_and_leaves_other_files_beside_it(tmp_path, steps):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/notes.txt").write_text("years of work")
    for _ in range(2):
        assert run_demo(tmp_path / "demo") == 0
        (tmp_path / "demo/natural").mkdir(exist_ok=True)  # as its steps do
    assert [words[0] for words in steps] == ["data", "fit", "fit", "evaluate", "export"] * 2
    assert (tmp_path / "demo/notes.txt").exists()


def test_the_demo_says_where_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_demo(tmp_path / "file/demo") == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err
