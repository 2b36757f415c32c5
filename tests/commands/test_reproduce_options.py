"""What `lightning-sq reproduce` makes of its options, and refuses before any work."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lightning_sq.commands import reproduce
from lightning_sq.errors import InputError
from lightning_sq.reproduction.page import JSON_FILE, SCHEMA_VERSION
from lightning_sq.reproduction.settings import SHARES
from lightning_sq.reproduction.studies import MNIST
from tests.conftest import REPOSITORY
from tests.reproduction.builders import rows, seed, settings


def settings_of(*words: str):
    return reproduce._settings(reproduce._parser().parse_args(["mnist", *words]))


def test_a_row_that_is_named_twice_is_run_once_and_an_empty_name_is_none():
    assert settings_of("--rows", "pgd, natural,,pgd,").rows == ("pgd", "natural")


def test_as_many_rows_run_side_by_side_as_there_are_cores_for_this_process(monkeypatch):
    monkeypatch.setattr(reproduce, "usable_cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [(s.jobs, s.num_threads) for s in (settings_of(), settings_of("--jobs", "2"))] == [(6, 1), (2, 3)]


@pytest.fixture
def page(tmp_path):
    """A page of PGD training, by the present recipe, whole and with a shorter schedule of four."""
    ours = settings(tmp_path, rows=("pgd",), shares=SHARES, tuning_data=None)
    row = rows(pgd=[])["pgd"]
    for run in ours.planned({}):
        entry = seed(0.5) | {"seed": run.seed, "recipe": run.recipe.fingerprint(), "epochs": run.recipe.num_epochs}
        row["shorter" if run.is_shorter else "seeds"].append(entry)
    row["learning_rate"] = ours.recipe(MNIST.row("pgd"), 0, {}).values()["model"]["optimization"]["base_learning_rate"]
    content = {"schema_version": SCHEMA_VERSION, "rows": {"pgd": row}, "choice": [], **ours.conditions()}
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / JSON_FILE).write_text(json.dumps(content))
    return content


@pytest.fixture
def done(page, tmp_path, monkeypatch):
    """Gives what is done by the command on that page: nothing is downloaded, trained or written."""
    found: list[str] = []
    monkeypatch.setattr(reproduce, "_with_data", lambda options, ours: replace(ours, assumed=MNIST.num_images))
    for name in ("_run", "_choose", "_write_page"):
        monkeypatch.setattr(reproduce, name, lambda *_, name=name: found.append(name))

    def run(*words: str) -> list[str]:
        found.clear()
        usual = ("--configs", str(REPOSITORY / "configs"), "--runs", str(tmp_path / "runs"))
        reproduce.main(["mnist", *usual, "--output", str(tmp_path / "page"), "--attacks", "quick", *words])
        return found

    return run


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["--rows", "natural"], "pgd (3 seeds, 3 shorter schedules)"),
        (["--rows", "pgd", "--num-seeds", "1"], "pgd (2 seeds)"),
        (["--rows", "pgd", "--no-shorter", "--overwrite"], "pgd (3 shorter schedules)"),
        (["--quick"], "pgd (3 seeds, 3 shorter schedules)"),
    ],
)
def test_a_page_that_says_more_is_not_replaced_before_that_is_asked_for(done, words, lost):
    with pytest.raises(InputError, match="Add --add to keep them, or give another --output") as refused:
        done(*words)
    assert f"and this lost: {lost}. " in str(refused.value)
    assert done(*words, "--plan") == ["_run"]
    if "--quick" not in words:
        assert done(*words, "--add") == ["_run", "_write_page"]


def test_a_page_that_the_new_one_says_all_of_is_replaced(done, tmp_path):
    assert done("--rows", "pgd") == done("--rows", "natural,pgd", "--num-images", "5") == ["_run", "_write_page"]
    assert done("--rows", "natural", "--quick", "--runs", str(tmp_path / "page")) == ["_run", "_write_page"]
    assert done("--rows", "natural", "--choose") == ["_choose", "_write_page"]  # which writes none of nothing
    file = tmp_path / "page" / JSON_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 0}))
    assert done("--rows", "natural") == ["_run", "_write_page"]


@pytest.mark.parametrize("key", ["seeds", "shorter"])
def test_a_row_that_is_not_chosen_and_whose_recipe_has_changed_is_refused_before_any_work(done, page, tmp_path, key):
    page["rows"]["pgd"][key][-1]["recipe"] = "of another one"
    (tmp_path / "page" / JSON_FILE).write_text(json.dumps(page))
    for more in ([], ["--plan"], ["--choose"]):
        with pytest.raises(InputError, match="has the row pgd by another recipe than configs has now"):
            done("--rows", "natural", "--add", *more)
    assert done("--rows", "pgd", "--add") == ["_run", "_write_page"]
