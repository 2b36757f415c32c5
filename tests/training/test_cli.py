"""LightningCLI as `lightning-sq fit | validate | test`."""

from __future__ import annotations

import sys

import pytest
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from lightning_sq.errors import InputError
from lightning_sq.training import cli
from lightning_sq.training.cli import EXAMPLES, main
from tests.conftest import REPOSITORY


@pytest.mark.filterwarnings("ignore")  # jsonargparse's, about docstrings of Lightning
@pytest.mark.parametrize("name", ["fit", "validate", "test"])
def test_a_help_ends_with_a_command_whose_options_it_lists(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(f"example: {EXAMPLES[name]}")
    listed = said.removesuffix(EXAMPLES[name])
    assert all(f"{word} " in listed for word in EXAMPLES[name].split() if word.startswith("--"))


@pytest.mark.filterwarnings("ignore")  # jsonargparse's, about docstrings of Lightning
@pytest.mark.parametrize(
    ("options", "bars"),
    [
        ([], [(TQDMProgressBar, 20)]),
        (["--trainer.callbacks+", "lightning.pytorch.callbacks.RichProgressBar"], [(RichProgressBar, 100)]),
        (["--trainer.enable_progress_bar", "false"], []),
    ],
)
def test_a_terminal_shows_a_bar_that_does_not_wait_for_the_gpu_at_each_step_unless_another_is_given(
    options, bars, few_digits, tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr(sys, "argv", ["lightning-sq"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(cli, "average_where_training_is", made.append)  # of the trainer, the last word on it
    monkeypatch.setattr(cli.CommandLine, "before_fit", lambda self: sys.exit(0))
    recipe = ["--config", str(REPOSITORY / "configs/digits.yaml"), "--data.root", str(few_digits)]
    with pytest.raises(SystemExit):
        main(["fit", *recipe, "--output", str(tmp_path / "run"), *options])
    shown = [callback for callback in made[0].callbacks if isinstance(callback, ProgressBar)]
    assert [(type(callback), callback.refresh_rate) for callback in shown] == bars


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.objective", "Hardest"], r"Expected a dot import path string: Hardest; Given value: Hardest\."),
        (["--trainer.callbacks+", "Nothing"], r"Expected a dot import path string: Nothing;"),
        (["--trainer.max_epochs", "[1"], r'"trainer\.max_epochs": Expected a <class \'int\'>; Given value: \[1\.'),
    ],
)
def test_of_a_value_that_cannot_be_the_reasons_are_told_each_once_and_not_pythons_types(words, told):
    with pytest.raises(InputError, match=told) as refused:
        main(["fit", *words])
    assert "Subtypes" not in str(refused.value)
    assert "NoneType" not in str(refused.value)
