"""Commands side by side: what is done is not done again, what fails says why, what was stopped goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from lightning_sq.errors import InputError
from lightning_sq.reproduction import runs
from lightning_sq.reproduction.figures import LIGHT, STRONG
from lightning_sq.reproduction.runs import (
    TRAINED,
    Step,
    evaluation_step,
    run_all,
    under_way,
)
from lightning_sq.reproduction.settings import RATE
from lightning_sq.reproduction.studies import CIFAR10, MNIST, STUDIES
from lightning_sq.reproduction.trials import (
    TRIAL_IMAGES,
    TRIAL_SHARE,
    rates_to_try,
    tried_rates,
    tried_variants,
    tuned_rates,
    variants,
)
from tests.reproduction.builders import settings


def step(folder, name, words, *, key="k"):
    return Step(name, words, folder / name / "done.json", key, 1.0, folder / name / "log.txt", lambda: {"more": 1})


def ran(steps, jobs=2):
    seen = []
    run_all(steps, jobs=jobs, advance=lambda *state: seen.append(state), num_threads=1, began="now")
    return seen


def test_a_step_that_is_done_is_not_done_again(tmp_path):
    good = step(tmp_path, "good", ["--version"])
    assert ran([good]) == [(1, 1, "good")]
    marker = json.loads(good.marker.read_text())
    assert (marker["key"], marker["more"], marker["num_threads"], marker["command"]) == ("k", 1, 1, "now")
    assert good.log.read_text().startswith("$ lightning-sq --version\n0.")
    assert ran([good]) == []


def test_while_steps_are_under_way_their_own_progress_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.01)
    both = [replace(step(tmp_path, name, ["--version"]), estimate=1000.0) for name in ("a", "b")]
    seen = ran(both, jobs=1)
    done, totals, notes = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {2000}
    assert {"a", "b"} <= set(notes)
    assert seen[-1] == (2000, 2000, "b")


def test_how_far_a_step_is_is_what_its_command_has_said_since_it_was_started(tmp_path):
    one = step(tmp_path, "one", [])
    assert under_way(one) == "one"
    one.log.parent.mkdir(exist_ok=True)
    one.log.write_text("$ lightning-sq fit\nepoch 9/9, 0:00:09 so far, 0:00:00 left\n$ lightning-sq fit\na warning\n")
    assert under_way(one) == "one"
    with one.log.open("a") as log:
        log.write("epoch 1/9, 0:00:01 so far, 0:00:08 left\na warning\n")
    assert under_way(one) == "one: epoch 1/9, 0:00:01 so far, 0:00:08 left"


def test_what_an_earlier_version_did_counts_and_is_done_again(tmp_path):
    first = step(tmp_path, "good", ["--version"])
    ran([first])
    stronger = replace(first, version=2)
    assert stronger.is_done()
    assert stronger.is_left()
    assert ran([stronger]) == [(1, 1, "good")]
    assert not stronger.is_left()
    assert not first.is_left()


def test_a_step_with_other_settings_is_refused_before_anything_runs(tmp_path):
    ran([step(tmp_path, "good", ["--version"])])
    other = step(tmp_path, "other", ["--version"])
    with pytest.raises(InputError, match=r"holds good by other settings .* add --overwrite"):
        ran([other, step(tmp_path, "good", ["--version"], key="another")])
    assert not other.marker.exists()


def test_a_step_that_fails_says_why_and_leaves_no_marker(tmp_path):
    bad, good = step(tmp_path, "bad", ["evaluate"]), step(tmp_path, "good", ["--version"])
    with pytest.raises(InputError, match=r"bad failed: .*required.* \(see .*bad/log\.txt\)"):
        ran([bad, good])
    assert not bad.marker.exists()


def test_the_marker_of_a_training_says_on_what_it_was(tmp_path, monkeypatch):
    step = settings(tmp_path).training_of(settings(tmp_path).planned({})[0])
    monkeypatch.setattr(runs, "training_curve", lambda folder, columns: [])
    for there, device in ((False, "CPU"), (True, "NVIDIA H200")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
        assert step.result()["device"] == device


def test_a_training_is_one_process_on_a_machine_of_many_gpus_and_its_recipe_the_one_of_earlier_pages(tmp_path):
    run = settings(tmp_path).planned({})[0]
    words = settings(tmp_path).training_of(run).words
    assert [words[words.index(f"--trainer.{name}") + 1] for name in ("devices", "num_nodes")] == ["1", "1"]
    assert not {"devices", "num_nodes"} & run.recipe.values()["trainer"].keys()


def test_attacks_that_were_stopped_go_on_and_drop_what_is_of_another_evaluation(tmp_path):
    """By `evaluate --overwrite`, which tells the two apart by the weights, images and attacks themselves."""
    run = settings(tmp_path).planned({})[0]
    assert "--overwrite" in evaluation_step(run, ["--epsilon", "0.3"], 10, "", ["pgd=other.ckpt"], 1.0).words


def test_a_training_that_another_command_had_begun_is_not_of_one_run(tmp_path):
    once = replace(step(tmp_path, "once", ["--version"]), started=tmp_path / "twice.ckpt")
    ran([once])
    assert json.loads(once.marker.read_text())["command"] == "now"
    once.started.touch()
    once.marker.unlink()
    ran([once])
    assert json.loads(once.marker.read_text())["command"] is None


def test_what_was_begun_by_other_settings_is_not_gone_on_with(tmp_path, monkeypatch):
    once = replace(step(tmp_path, "once", ["--version"]), started=tmp_path / "once" / "last.ckpt")

    def stopped(words, **more):
        once.started.touch()
        return 1

    monkeypatch.setattr(runs, "run_command", stopped)
    with pytest.raises(InputError, match="once failed"):
        ran([once])
    assert not once.is_done()
    with pytest.raises(InputError, match="holds once by other settings"):
        ran([replace(once, key="of another recipe")])
    once.started.unlink()  # nothing is there to go on from
    assert not replace(once, key="of another recipe").is_done()


def test_attacks_on_weights_that_are_trained_again_do_not_count(tmp_path):
    judged = tmp_path / "judged.json"
    judged.touch()
    ran([replace(step(tmp_path, "once", ["--version"]), void=judged)])
    assert not judged.exists()
    run = settings(tmp_path).planned({})[0]
    assert settings(tmp_path).training_of(run).void == settings(tmp_path).attacks_on(run).marker


def test_a_step_on_other_images_is_refused(tmp_path):
    some = replace(step(tmp_path, "some", ["--version"]), images="of now")
    ran([some])
    assert some.is_done()
    assert replace(some, images="").is_done()  # they are not there: a page can be written without them
    with pytest.raises(InputError, match=r"holds some with other images than the data has now\. .* add --overwrite"):
        replace(some, images="of later").is_done()


def test_attacks_on_fewer_images_than_are_asked_for_count_and_are_run_again(tmp_path):
    run = settings(tmp_path).planned({})[0]

    def attacks(num_images):
        return evaluation_step(run, ["--epsilon", "0.3"], num_images, "", [], 1.0)

    ten = attacks(10)
    assert ten.words[ten.words.index("--num-images") + 1] == "10"
    ran([replace(ten, words=["--version"])])
    for num_images, left in ((5, False), (10, False), (20, True)):
        assert attacks(num_images).is_done()
        assert attacks(num_images).is_left() is left


def _tried(run, **last):
    """That trial was run, and its last look saw `last`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    curve = [{"seconds": 1.0, "clean": 0.9, "robust": 0.99}, {"seconds": 2.0, **last}]
    (run.folder / TRAINED).write_text(json.dumps({"key": run.recipe.fingerprint(), "curve": curve}))


def test_a_rate_at_which_a_net_learns_nothing_is_not_the_best_though_no_attack_makes_it_worse(tmp_path):
    ours = settings(tmp_path, rows=("pgd",))
    *others, collapsed = rates_to_try(ours)
    for run in others:
        _tried(run, clean=0.9, robust=0.05)
    _tried(collapsed, clean=0.107, robust=0.107)
    assert [entry["accuracy"] for entry in tried_rates(ours)["pgd"]] == [0.05, 0.05, 0.0]
    assert tuned_rates(ours) == {"pgd": others[1].recipe.changes[RATE]}


def test_every_row_gets_the_same_number_of_learning_rates_and_the_best_on_held_out_images_is_taken(tmp_path):
    ours = settings(tmp_path)
    tried = rates_to_try(ours)
    assert [run.row.name for run in tried] == ["natural"] * 3 + ["pgd"] * 3
    assert len({run.folder for run in tried}) == len({run.recipe.fingerprint() for run in tried}) == 6
    assert tuned_rates(ours) == {}
    for accuracy, run in zip([0.5, 0.7, 0.7, 0.1, 0.2, 0.3], tried, strict=True):
        _tried(run, clean=0.9, robust=accuracy)
    own = {name: ours.recipe(MNIST.row(name), 0, {}).values()["model"]["optimization"] for name in ours.rows}
    expected = {"natural": own["natural"]["base_learning_rate"], "pgd": 2 * own["pgd"]["base_learning_rate"]}
    assert tuned_rates(ours) == expected
    (tried[-1].folder / TRAINED).unlink()
    assert tuned_rates(ours).keys() == {"natural"}
    assert tuned_rates(settings(tmp_path, tuning_data=None)) == {}
    planned = ours.planned(expected)
    assert [run.recipe.changes[RATE] for run in planned] == [expected["natural"]] + [expected["pgd"]] * 3


def test_variants_of_the_method_are_trained_alike_and_shown_if_the_recipe_is_still_the_same(tmp_path):
    ours = settings(tmp_path)
    tried = variants(ours)
    epochs = math.ceil(TRIAL_SHARE * ours.recipe(MNIST.row(MNIST.method), 0, {}).num_epochs)
    assert len(tried) == 1 + len(MNIST.variants)
    assert len({run.folder for _, run in tried}) == len(tried)
    for _, run in tried:
        trainer = run.recipe.values()["trainer"]
        assert trainer["check_val_every_n_epoch"] == trainer["max_epochs"] == epochs
        assert trainer["callbacks"][0]["init_args"] == {"epsilon": 0.3, "num_images": TRIAL_IMAGES}
    assert tried_variants(ours) == []
    learned, nothing = {"clean": 0.9, "robust": 0.7}, {"clean": 0.107, "robust": 0.107}
    for (_, run), last, more in zip(tried, (learned, learned, nothing), ({"key": "another"}, {}, {}), strict=False):
        _tried(run, **last)
        marker = run.folder / TRAINED
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"epochs": 3} | more))
    found, collapsed = tried_variants(ours)
    assert (found["title"], found["accuracy"], found["seconds"]) == (MNIST.variants[0].title, 0.7, 2.0)
    assert found["changes"] == MNIST.variants[0].changes
    assert (collapsed["title"], collapsed["accuracy"]) == (MNIST.variants[1].title, 0.0)


def test_the_forms_differ_in_epochs_seeds_and_batches(tmp_path):
    full, quick = settings(tmp_path).planned({}), settings(tmp_path, form="quick").planned({})
    assert [run.seed for run in full] == [0, 0, 1, 2]
    assert [run.seed for run in quick] == [0, 0]
    assert [run.recipe.values()["trainer"]["max_epochs"] for run in quick] == [1, 1]
    assert "limit_train_batches" not in full[0].recipe.values()["trainer"]
    assert len(settings(tmp_path, num_seeds=1).planned({})) == 2


def test_a_schedule_that_is_too_long_is_pressed_into_the_epochs_that_there_are_and_no_other_is_changed(tmp_path):
    row = MNIST.row("interval_bound")
    whole, pressed, same = (settings(tmp_path, max_epochs=n).recipe(row, 0, {RATE: 1.0}) for n in (None, 12, 24))
    assert (whole.num_epochs, pressed.num_epochs) == (24, 12)
    assert whole == same
    ramps = [one.values()["model"]["objective"]["init_args"]["ramp_steps"] for one in (whole, pressed)]
    assert ramps[0] == 2 * ramps[1] > 0
    warmups = [one.values()["model"]["optimization"]["warmup_epochs"] for one in (whole, pressed)]
    assert warmups[0] == warmups[1] > 0
    short = settings(tmp_path, max_epochs=1).recipe(row, 0, {})
    assert short.values()["model"]["optimization"]["warmup_epochs"] == 0.5
    assert pressed.changes[RATE] == 1.0


def test_the_small_form_has_the_schedules_and_seeds_of_the_full_one_with_another_network(tmp_path):
    full, small, quick = (settings(tmp_path, study=CIFAR10, form=f).planned({}) for f in ("full", "small", "quick"))
    assert [run.seed for run in small] == [run.seed for run in full]
    for one, other in zip(full, small, strict=True):
        ours, theirs = one.recipe.values(), other.recipe.values()
        assert ours["trainer"] == theirs["trainer"]
        assert ours["model"]["objective"] == theirs["model"]["objective"]
        assert (ours["model"]["architecture"], theirs["model"]["architecture"]) == ("resnet18_cifar", "small_cnn_cifar")
    assert quick[0].recipe.values()["model"]["architecture"] == "small_cnn_cifar"


def test_the_quick_form_has_rows_that_are_soon_trained_and_a_figure_has_a_style_for_every_row():
    for study in STUDIES.values():
        claimed = {*study.timed, *study.methods, *study.proven_rows} - {study.method}
        assert len(claimed) <= len(STRONG)
        for gradients in (True, False):
            others = [
                row
                for row in study.rows
                if row.name not in {*claimed, study.method} and row.uses_input_gradients == gradients
            ]
            assert len(others) <= len(LIGHT)
    long = ["method_short", "method_wide", "method_madry", "pgd_madry", "method_resnet18"]
    long += ["quantizer_pgd", "quantizer_pgd_2", "quantizer_pgd_1", "interval_bound_wide"]
    assert [row.name for row in MNIST.rows if not row.in_quick] == long


def test_the_rows_whose_time_is_told_are_trained_by_shorter_schedules_too(tmp_path):
    ours = settings(tmp_path, shares=(1 / 8, 1 / 4, 1 / 2))
    runs = ours.planned({"pgd": 0.5})
    shorter = [run for run in runs if run.is_shorter]
    assert [(run.row.name, run.seed, run.folder.name) for run in shorter] == [
        ("pgd", 0, "epochs1"), ("pgd", 0, "epochs2"), ("pgd", 0, "epochs4")
    ]  # fmt: skip
    assert all(run.recipe.changes[RATE] == 0.5 for run in shorter)
    assert not any(run.is_shorter for run in settings(tmp_path, shares=(0.5,), max_epochs=1).planned({}))
    assert ours.transfer_sources(shorter) == {}


def test_the_rate_of_a_trial_grows_for_half_of_its_epochs_at_most(tmp_path):
    tried = {run.row.name: run for run in rates_to_try(settings(tmp_path, rows=("fgsm_rs", "pgd")))}
    values = [tried[name].recipe.values() for name in ("fgsm_rs", "pgd")]
    assert [v["model"]["optimization"]["warmup_epochs"] / v["trainer"]["max_epochs"] for v in values] == [1 / 2, 1 / 3]


def test_the_undefended_net_and_the_pgd_trained_one_lend_their_images(tmp_path):
    ours = settings(tmp_path)
    runs = ours.planned({})
    assert ours.transfer_sources([]) == {}
    assert list(ours.transfer_sources(runs)) == ["natural", "pgd"]
    assert ours.transfer_sources(runs[2:]) == {"pgd": tmp_path / "runs/pgd/seed1/checkpoints/last.ckpt"}
    checkpoint = tmp_path / "runs/pgd/seed0/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / "runs/pgd/seed0" / TRAINED).write_text("{}")
    assert ours.transfer_sources([]) == {"pgd": checkpoint}
    checkpoint.unlink()
    assert ours.transfer_sources([]) == {}
    assert ours.transfer_sources(runs)["pgd"] == tmp_path / "runs/pgd/seed1/checkpoints/last.ckpt"
