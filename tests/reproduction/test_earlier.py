"""What an earlier page measured is found by its recipe, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lightning_sq.errors import InputError
from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.reproduction.earlier import NOTHING, Earlier
from lightning_sq.reproduction.runs import TRAINED, Run
from lightning_sq.reproduction.settings import RATE, SHARES
from lightning_sq.reproduction.trials import rates_to_try, tried_rates, tried_variants, tuned_rates, variants
from tests.reproduction.builders import rows, seed, settings


def known(run: Run, **more) -> dict:
    return {"recipe": run.recipe.fingerprint(), "num_images": 10} | more


def test_a_seed_is_known_by_its_recipe_alone(tmp_path):
    ours = settings(tmp_path)
    natural, pgd, *_ = ours.planned({})
    earlier = Earlier({"pgd": {"seeds": [known(pgd, seed=0)]}, "natural": {"seeds": [known(pgd, seed=0)]}}, [])
    assert earlier.seed(pgd) == known(pgd, seed=0)
    assert earlier.seed(natural) is None
    assert earlier.seed(ours.planned({"pgd": 0.5})[1]) is None
    assert NOTHING.seed(pgd) is None


def test_what_is_measured_anew_is_dropped_and_nothing_besides(tmp_path):
    ours = settings(tmp_path, rows=("pgd",), shares=SHARES)
    runs, tried = ours.planned({}), rates_to_try(ours)
    page = rows(pgd=[known(run, seed=run.seed) for run in runs if not run.is_shorter], free=[seed(0.5)])
    page["pgd"] |= {
        "shorter": [known(run, seed=0, epochs=run.recipe.num_epochs) for run in runs if run.is_shorter],
        "tuning": [known(run) for run in tried],
        "other_rates": [1],
    }
    whole, less = Earlier(page, []), replace(ours, num_seeds=1, shares=SHARES[:1], tuning_data=None)
    left = whole.without(less.planned({"pgd": 0.5}), rates_to_try(less)).rows  # another rate: the same seed and length
    assert left["free"] == page["free"]
    assert left["pgd"] == page["pgd"] | {"seeds": page["pgd"]["seeds"][1:], "shorter": page["pgd"]["shorter"][1:]}
    none = {"seeds": [], "shorter": [], "tuning": []}
    assert whole.without(runs, tried).rows["pgd"] == page["pgd"] | none


def test_what_was_judged_by_weaker_attacks_is_attacked_again_where_its_run_is_at_hand(tmp_path):
    ours = settings(tmp_path, rows=("natural",))
    (run,) = ours.planned({})

    def missing(**more):
        return replace(ours, earlier=Earlier({"natural": {"seeds": [known(run, seed=0, **more)]}}, [])).missing({})

    assert missing() == []
    run.folder.mkdir(parents=True)
    (run.folder / TRAINED).write_text(json.dumps({"key": "of another recipe"}))
    assert missing() == []
    (run.folder / TRAINED).write_text(json.dumps({"key": run.recipe.fingerprint()}))
    assert missing() == []  # its checkpoint has been removed
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    assert missing() == [run]
    assert missing(suite_version=SUITE_VERSION) == []


def test_what_was_judged_on_fewer_images_than_are_asked_for_is_run_again_wherever_its_run_is(tmp_path):
    ours = settings(tmp_path, rows=("natural",))
    (run,) = ours.planned({})
    page = Earlier({"natural": {"seeds": [known(run, seed=0, suite_version=SUITE_VERSION)]}}, [])
    for asked, left in ((5, []), (10, []), (11, [run])):
        assert replace(ours, earlier=page, num_images=asked).missing({}) == left


def test_a_shorter_schedule_is_known_too(tmp_path):
    ours = settings(tmp_path, rows=("pgd",), shares=(0.5,))
    *whole, shorter = ours.planned({})
    known_page = {"pgd": {"seeds": [known(run, seed=run.seed) for run in whole], "shorter": []}}
    assert replace(ours, earlier=Earlier(known_page, [])).missing({}) == [shorter]
    known_page["pgd"]["shorter"] = [known(shorter, seed=0)]
    assert replace(ours, earlier=Earlier(known_page, [])).missing({}) == []


def test_what_a_row_gave_at_other_rates_and_how_its_own_was_chosen_stays_with_it_while_its_recipe_does(tmp_path):
    ours = settings(tmp_path, rows=("pgd",))
    row, trials = ours.study.row("pgd"), rates_to_try(ours)

    def at_rate(seed, rate):
        return ours.recipe(row, seed, {RATE: rate})

    tuning = [known(run) for run in trials]
    others = [{"rate": 0.5, "seeds": [{"seed": 1, "recipe": at_rate(1, 0.5).fingerprint()}], "shorter": []}]

    def beside(page, now, name="pgd"):
        return Earlier(page, []).beside_runs(name, now, trials, at_rate)

    page = {"pgd": {"other_rates": others, "tuning": tuning, "learning_rate": 0.1}, "natural": {"seeds": []}}
    untuned = {"learning_rate": 0.1, "tuning": []}
    assert beside(page, untuned) == {"other_rates": others, "tuning": tuning}
    assert beside(page, {"learning_rate": 0.2, "tuning": []}) == {"other_rates": others}
    assert beside(page, {"learning_rate": 0.1, "tuning": tuning[:1]}) == {"other_rates": others}
    assert beside(page, untuned, "natural") == beside(page, untuned, "free") == {}
    of_another_recipe = {"seed": 1, "recipe": "0"}
    page["pgd"] |= {
        "tuning": [*tuning[1:], of_another_recipe],
        "other_rates": [others[0] | {"seeds": [of_another_recipe]}],
    }
    assert beside(page, untuned) == {}


def test_learning_rates_that_a_page_has_tried_are_not_tried_again_and_tell_the_best(tmp_path):
    ours = settings(tmp_path, rows=("pgd",))
    trials = rates_to_try(ours)
    entries = [
        known(run, rate=run.recipe.changes[RATE], accuracy=a) for run, a in zip(trials, (0.1, 0.2, 0.3), strict=True)
    ]
    after = settings(tmp_path, rows=("pgd",), earlier=Earlier({"pgd": {"tuning": entries}}, []))
    assert tried_rates(after) == {"pgd": entries}
    assert tuned_rates(after) == {"pgd": trials[2].recipe.changes[RATE]}
    assert tuned_rates(ours) == {}


def test_variants_that_a_page_has_tried_are_shown(tmp_path):
    tried = variants(settings(tmp_path))[3][1]
    after = settings(tmp_path, earlier=Earlier({}, [known(tried, title="x"), {"recipe": "of another one"}]))
    assert tried_variants(after) == [known(tried, title="x")]


def test_pages_made_otherwise_are_refused():
    page = {"rows": {}, "choice": [], "max_epochs": 2, "attacks": ["pgd"]}
    assert Earlier.of(page, {"max_epochs": 2, "attacks": ["pgd"]}) == NOTHING
    with pytest.raises(InputError, match=r"says max_epochs 2, and this run 10: .* leave --add out"):
        Earlier.of(page, {"max_epochs": 10, "attacks": ["pgd"]})
