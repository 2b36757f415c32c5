"""What every command says of counts that cannot be, and of options that there are not."""

from __future__ import annotations

import shlex
from argparse import Namespace

import pytest

from lightning_sq.__main__ import main
from lightning_sq.commands.data import main as data
from lightning_sq.commands.parser import Parser, check_at_least_one
from lightning_sq.errors import InputError
from tests.conftest import REPOSITORY

WITH_EXAMPLES = (
    *("evaluate", "export", "reproduce", "plan", "data check", "data shard", "report", "verify", "download", "upload"),
)


class Parsed(Exception):
    """An example that its parser has taken."""


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_a_help_ends_with_examples_that_the_parser_takes_and_that_fit_a_terminal(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    examples = said.partition("\nexamples:\n")[2].replace("\\\n", "").splitlines()
    assert 1 <= len(examples) <= 2
    parse_args = Parser.parse_args

    def parse_alone(self, arguments):
        parse_args(self, arguments)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_alone)
    for example in examples:
        words = shlex.split(example)
        assert words[: len(name.split()) + 1] == ["lightning-sq", *name.split()]
        assert all((REPOSITORY / word).exists() for word in words if word.startswith(("configs/", "results/")))
        with pytest.raises(Parsed):
            main(words[1:])


def test_counts_are_at_least_one_or_not_given():
    options = Namespace(jobs=1, num_seeds=None, num_images=0, max_epochs=-2)
    check_at_least_one(options, "jobs", "num_seeds")
    with pytest.raises(InputError, match=r"^--num-images 0 is not at least 1\.$"):
        check_at_least_one(options, "jobs", "num_images", "max_epochs")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num_image", "3"], "unrecognized arguments: --num_image 3. Did you mean --num-images?"),
        (["--atacks=quick"], "unrecognized arguments: --atacks=quick. Did you mean --attacks?"),
        (["--something-else", "8"], "unrecognized arguments: --something-else 8."),
        (["stray"], "unrecognized arguments: stray."),
        (["--num-images", "many"], "argument --num-images: invalid int value: 'many'."),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest_one(words, sentence):
    parser = Parser("lightning-sq evaluate")
    parser.add_argument("--num-images", type=int)
    parser.add_argument("--attacks")
    with pytest.raises(InputError) as refused:
        parser.parse_args(words)
    assert str(refused.value) == f"{sentence} lightning-sq evaluate --help lists the options."


def test_a_misspelt_option_behind_a_second_subcommand_is_answered_with_one_of_its_own():
    with pytest.raises(InputError) as refused:
        data(["check", "folder", "--overwite", "--agian"])
    told = "unrecognized arguments: --overwite --agian. Did you mean --again?"
    assert str(refused.value) == f"{told} lightning-sq data check --help lists the options."
