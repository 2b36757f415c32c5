"""LightningCLI as `lightning-sq fit | validate | test`."""

from __future__ import annotations

import pytest

from lightning_sq.errors import InputError
from lightning_sq.training.cli import EXAMPLES, main


@pytest.mark.filterwarnings("ignore")  # jsonargparse's, about docstrings of Lightning
@pytest.mark.parametrize("name", ["fit", "validate", "test"])
def test_a_help_ends_with_a_command_whose_options_it_lists(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(f"example: {EXAMPLES[name]}")
    listed = said.removesuffix(EXAMPLES[name])
    assert all(f"{word} " in listed for word in EXAMPLES[name].split() if word.startswith("--"))


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
