"""LightningCLI as `lightning-sq fit | validate | test`."""

from __future__ import annotations

import pytest

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
