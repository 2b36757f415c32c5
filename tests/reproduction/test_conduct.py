"""What is chosen is chosen on training images that are held out, and every row is trained and attacked alike."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lightning_sq.errors import InputError
from lightning_sq.reproduction import conduct, proofs, trials
from lightning_sq.reproduction.earlier import NOTHING, Earlier
from lightning_sq.reproduction.plan import Estimate
from lightning_sq.reproduction.proofs import Proof
from lightning_sq.reproduction.runs import TRAINED, forget
from lightning_sq.reproduction.settings import SHARES
from lightning_sq.reproduction.studies import MNIST
from tests.reproduction.builders import rows, seed, settings


@pytest.fixture
def steps(monkeypatch):
    """Every step that is asked for, by the word that begins its title; nothing is run."""
    asked: dict[str, list] = {}

    def note(steps, **more):
        for step in steps:
            asked.setdefault(step.title.split()[0], []).append(step)

    monkeypatch.setattr(conduct, "run_all", note)
    return asked


def data_of(steps) -> set[str]:
    return {step.words[step.words.index("--data.root" if step.words[0] == "fit" else "--data") + 1] for step in steps}


def test_rates_are_tried_on_held_out_images_and_rows_are_trained_and_attacked_on_the_data_set(tmp_path, steps):
    ours = settings(tmp_path)
    known = {name: Estimate(epoch=1.0, attacking=1.0) for name in ours.rows}
    conduct.conduct(ours, known)
    tried = [step for step in steps["training"] if "tuning" in str(step.marker)]
    trained = [step for step in steps["training"] if "tuning" not in str(step.marker)]
    assert (len(tried), data_of(tried)) == (6, {str(ours.tuning_data)})
    assert (len(trained), data_of(trained)) == (4, {str(ours.data)})
    assert (len(steps["attacking"]), data_of(steps["attacking"])) == (4, {str(ours.data)})


def test_rows_that_are_timed_are_trained_whatever_the_page_says_and_neither_tuned_nor_attacked(tmp_path, steps):
    ours = settings(tmp_path, rows=("pgd",), times=True)
    entries = [seed(0.5) | {"seed": run.seed, "recipe": run.recipe.fingerprint()} for run in ours.planned({})]
    conduct.conduct(replace(ours, earlier=Earlier(rows(pgd=entries), [])), {"pgd": Estimate(epoch=1.0, attacking=1.0)})
    assert {word: len(asked) for word, asked in steps.items()} == {"training": 3}


@pytest.mark.parametrize("robust", [0.8, 0.7])
def test_a_training_that_comes_out_as_the_page_says_lends_it_its_clock_and_no_other_does(tmp_path, robust):
    ours = settings(tmp_path, rows=("natural",), tuning_data=None)
    (run,) = ours.planned({})
    entry = seed(0.5, curve=((10, 0.5), (20, 0.8))) | {"recipe": run.recipe.fingerprint()}
    clock = {"device": "CPU", "num_threads": 1, "jobs": 3, "epochs": 2, "command": "2026-02-01T00:00:00+00:00"}
    curve = [{"seconds": s, "clean": 0.99, "robust": r} for s, r in ((7, 0.5), (15, robust))]
    run.folder.mkdir(parents=True)
    (run.folder / TRAINED).write_text(json.dumps({"key": entry["recipe"], "curve": curve} | clock))
    after = replace(ours, earlier=Earlier(rows(natural=[entry]), []))
    assert conduct.collect(after)["rows"]["natural"]["seeds"] == [entry]
    after = replace(after, times=True)
    (found,) = conduct.collect(after)["rows"]["natural"]["seeds"]
    if robust == 0.8:
        assert found == entry | clock | {"seconds": 15, "curve": curve, "timed_again": True}
        assert conduct.timed_otherwise(after) == []
    else:
        assert found == entry
        assert conduct.timed_otherwise(after) == ["natural, seed0"]


@pytest.mark.parametrize("robust", [0.8, 0.7])
def test_what_is_attacked_anew_keeps_the_clock_of_the_page_where_its_training_came_out_the_same(
    tmp_path, monkeypatch, robust
):
    ours = settings(tmp_path, rows=("natural",), tuning_data=None)
    (run,) = ours.planned({})
    known = {"recipe": run.recipe.fingerprint()}
    before = seed(0.5, curve=((10, 0.5), (20, 0.8))) | known | {"num_images": 200}
    anew = seed(0.4, curve=((7, 0.5), (15, robust))) | known | {"num_images": 1000, "command": "2026-02-01T00:00:00"}
    monkeypatch.setattr(conduct, "_measured", lambda *_: anew)
    after = replace(ours, earlier=Earlier(rows(natural=[before]), []))
    (found,) = conduct.collect(after)["rows"]["natural"]["seeds"]
    assert (found["worst_case"], found["num_images"]) == (0.4, 1000)
    kept = before if robust == 0.8 else anew
    assert (found["curve"], found["seconds"], found["command"]) == (kept["curve"], kept["seconds"], kept["command"])
    assert found.get("timed_again", False) is (robust == 0.8)


def test_of_two_measurements_the_one_by_later_attacks_is_taken_then_that_of_more_images_then_what_is_at_hand():
    few, many, later = {"num_images": 10}, {"num_images": 20}, {"num_images": 10, "suite_version": 2}
    for here, earlier, better in ((few, many, many), (many, few, many), (many, later, later), (None, few, few)):
        assert conduct._better(here, earlier) is better
    again = dict(few)
    assert conduct._better(again, few) is again
    assert conduct._better(None, None) is None


def test_seeds_and_lengths_that_a_command_leaves_out_stay_on_the_page(tmp_path):
    whole = settings(tmp_path, rows=("pgd",), shares=SHARES, tuning_data=None)
    row = rows(pgd=[])["pgd"]
    for run in whole.planned({}):
        entry = seed(0.5) | {"seed": run.seed, "recipe": run.recipe.fingerprint()}
        row["shorter" if run.is_shorter else "seeds"].append(entry)
    less = replace(whole, num_seeds=1, shares=(), earlier=Earlier({"pgd": row}, []))
    kept = conduct.collect(less)["rows"]["pgd"]
    assert (kept["seeds"], kept["shorter"]) == (row["seeds"], row["shorter"])
    assert (len(kept["seeds"]), len(kept["shorter"])) == (3, 3)
    with pytest.raises(conduct.NothingMeasuredError):
        conduct.collect(replace(less, earlier=NOTHING))


def test_a_run_that_is_to_be_done_again_begins_anew_and_what_is_not_its_own_stays(tmp_path):
    ours = settings(tmp_path)
    run = ours.planned({})[0]
    run.checkpoint.parent.mkdir(parents=True)
    for path in (run.checkpoint, run.folder / TRAINED, run.folder / "notes.txt"):
        path.write_text("{}")
    forget(run)
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]
    assert ours.training_of(run).words[-1] == "--resume"  # stopped and started again, it goes on


def test_what_is_there_by_another_recipe_is_refused_before_any_work_unless_it_is_to_be_done_again(tmp_path, steps):
    ours = settings(tmp_path, tuning_data=None)
    known = {name: Estimate(epoch=1.0, attacking=1.0) for name in ours.rows}
    last = ours.planned({})[-1]
    last.folder.mkdir(parents=True)
    (last.folder / TRAINED).write_text(json.dumps({"key": "of another recipe"}))
    with pytest.raises(InputError, match="by other settings"):
        conduct.conduct(ours, known)
    assert steps == {}
    conduct.conduct(ours, known, anew=True)
    assert len(steps["training"]) == 4


def test_a_run_whose_checkpoint_was_removed_is_as_it_was_found_and_is_begun_anew_where_that_is_needed(tmp_path, steps):
    ours = settings(tmp_path, rows=("natural",), tuning_data=None)
    known = {"natural": Estimate(epoch=1.0, attacking=1.0)}
    (run,) = ours.planned({})
    trained, attacked = ours.training_of(run), ours.attacks_on(run)
    run.folder.mkdir(parents=True)
    for step in (trained, attacked):
        done = {"key": step.key, "version": step.version, "num_images": step.num_images, "curve": seed(0.5)["curve"]}
        step.marker.write_text(json.dumps(done))
    proof = {"made_of": proofs._made_of(run, ours.max_boxes), "proof": None}
    (run.folder / proofs.PROVEN).write_text(json.dumps(proof))
    conduct.conduct(ours, known)
    assert ours.is_measured(run)  # and nothing is left to do with the checkpoint
    assert not trained.is_left()
    (run.folder / proofs.PROVEN).unlink()
    entry = seed(0.5) | {"recipe": run.recipe.fingerprint()}
    after = replace(ours, earlier=Earlier(rows(natural=[entry]), []))
    conduct.conduct(after, known)
    assert conduct.collect(after)["rows"]["natural"]["seeds"] == [entry]
    assert trained.is_done()
    with pytest.raises(conduct.NothingMeasuredError):
        conduct.collect(ours)
    conduct.conduct(ours, known)
    assert trained.is_left()
    assert attacked.is_left()


def test_a_page_of_what_was_run_alone_takes_the_place_of_none_that_says_more(tmp_path):
    ours = settings(tmp_path, tuning_data=None)
    content = {"rows": rows(natural=[seed(0.1)], pgd=[seed(0.5)]), "choice": [], **ours.conditions()}
    content["rows"]["natural"]["other_rates"] = [{}]
    conduct.refuse_loss(ours, content, measures=False)  # nothing was run: no page is written
    natural, pgd, *_ = ours.planned({})
    for run, lost in ((natural, r"natural \(1 other learning rate\); pgd \(1 seed\)"), (pgd, r"natural \(1 other")):
        run.checkpoint.parent.mkdir(parents=True)
        run.checkpoint.touch()
        for step in (ours.training_of(run), ours.attacks_on(run)):
            step.marker.write_text(json.dumps({"key": step.key}))
        with pytest.raises(InputError, match=f"and this lost: {lost}"):
            conduct.refuse_loss(ours, content, measures=False)
    del content["rows"]["natural"]["other_rates"]
    conduct.refuse_loss(ours, content, measures=False)
    (_, tried), *_ = trials.variants(ours)
    content["choice"] = [{"recipe": tried.recipe.fingerprint()}]
    for measures in (False, True):
        with pytest.raises(InputError, match="and this lost: 1 variant of the method"):
            conduct.refuse_loss(ours, content, measures=measures)
    conduct.refuse_loss(ours, content, measures=False, chooses=True)
    tried.checkpoint.parent.mkdir(parents=True)
    tried.checkpoint.touch()
    ours.training_of(tried).marker.write_text(json.dumps({"key": ours.training_of(tried).key}))
    conduct.refuse_loss(ours, content, measures=False)


def test_rows_are_timed_where_the_page_has_them_by_the_recipe_of_now_and_no_seed_more(tmp_path):
    ours = replace(settings(tmp_path, rows=("pgd",), tuning_data=None), times=True)
    first, second, _ = ours.planned({})
    entries = [seed(0.5) | {"recipe": run.recipe.fingerprint(), "seed": run.seed} for run in (first, second)]
    with_page = replace(ours, earlier=Earlier(rows(pgd=entries), []))
    assert with_page.missing({}) == [first, second]
    conduct.refuse_untimed(with_page)
    changed = replace(ours, earlier=Earlier(rows(pgd=[entries[0] | {"recipe": "of then"}]), []))
    with pytest.raises(InputError, match="--time: the page there has no row pgd by the recipe"):
        conduct.refuse_untimed(changed)
    for run in (first, second):
        assert not conduct.are_timed(with_page)
        run.folder.mkdir(parents=True)
        ours.training_of(run).marker.write_text(json.dumps({"key": ours.training_of(run).key}))
    assert conduct.are_timed(with_page)


def test_variants_of_the_method_are_tried_on_held_out_images(tmp_path, steps):
    ours = settings(tmp_path)
    conduct.choose(ours, [1.0] * len(trials.variants(ours)))
    assert data_of(steps["training"]) == {str(ours.tuning_data)}


def test_the_rate_of_a_row_that_is_trained_by_bounds_is_chosen_by_what_is_proven_of_held_out_images(
    tmp_path, monkeypatch, steps
):
    ours, asked = settings(tmp_path, rows=("interval_bound",)), []

    def prove(run, data, epsilon, **more):
        asked.append((data, epsilon))
        return Proof(run.recipe.changes[trials.RATE], 0.0, 0.0, 0)  # the larger the rate, the more

    monkeypatch.setattr(trials, "prove", prove)
    for run in trials.rates_to_try(ours):
        run.checkpoint.parent.mkdir(parents=True)
        run.checkpoint.touch()
        curve = [{"seconds": 1.0, "clean": 0.9, "robust": 0.5}]
        (run.folder / TRAINED).write_text(json.dumps({"key": run.recipe.fingerprint(), "curve": curve}))
    rates = [run.recipe.changes[trials.RATE] for run in trials.rates_to_try(ours)]
    assert trials.tuned_rates(ours) == {"interval_bound": max(rates)}
    assert set(asked) == {(ours.tuning_data, MNIST.epsilon)}
    lost = trials.rates_to_try(ours)[0]
    lost.checkpoint.unlink()
    assert trials.tuned_rates(ours) == {}
    conduct.conduct(ours, {"interval_bound": Estimate(epoch=1.0, attacking=1.0)})
    assert [run for run in trials.rates_to_try(ours) if not (run.folder / TRAINED).exists()] == [lost]
