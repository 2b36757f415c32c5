"""Every row's recipe is what `fit` reads, and differs from the study's own by what its file says."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
import yaml

from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.objectives import Natural, NoisyNatural
from lightning_sq.reproduction.recipes import recipe_of
from lightning_sq.reproduction.studies import CIFAR10, MNIST, STUDIES
from lightning_sq.reproduction.trials import rates_to_try
from lightning_sq.types import parse_epsilon
from tests.conftest import REPOSITORY
from tests.reproduction.builders import settings

CONFIGS = REPOSITORY / "configs"
ROWS = [(study, row) for study in STUDIES.values() for row in study.rows]
IDS = [f"{study.name}-{row.name}" for study, row in ROWS]


def recipe(study, name, **changes):
    return recipe_of(study, study.row(name), configs=CONFIGS, seed=0, changes=changes)


@pytest.mark.parametrize(("study", "row"), ROWS, ids=IDS)
def test_fit_reads_a_row_as_the_study_does(study, row, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    ours = recipe_of(study, row, configs=CONFIGS, seed=3, changes={"trainer.max_epochs": 2})
    with pytest.raises(SystemExit):
        main(["fit", *ours.options(), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed_everything"] == 3
    assert printed["trainer"]["max_epochs"] == 2
    objective = printed["model"]["objective"]
    assert objective["class_path"].endswith(f".{type(ours.objective()).__name__}")
    mine = ours.values()["model"]["objective"]
    given = {} if isinstance(mine, str) else mine.get("init_args", {})
    all_of_it = {name: p.default for name, p in inspect.signature(type(ours.objective())).parameters.items()} | given
    assert {name: str(value) for name, value in objective["init_args"].items()} == {
        name: str(list(value) if isinstance(value, tuple) else value) for name, value in all_of_it.items()
    }
    assert (printed["model"]["quantizer"] is None) == (ours.model(10).quantizer is None)
    assert printed["model"]["architecture"] == ours.values()["model"]["architecture"]


@pytest.mark.parametrize("variant", MNIST.variants, ids=lambda variant: variant.title)
def test_fit_reads_a_variant_of_the_method_as_the_study_does(variant, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    with pytest.raises(SystemExit):
        main(["fit", *recipe(MNIST, "method", **variant.changes).options(), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    for name, value in variant.changes.items():
        place = printed
        for part in name.split("."):
            place = place[part]
        assert str(place) in (str(value), str(parse_epsilon(value) if name.endswith("epsilon") else value))


def test_no_two_variants_of_a_study_are_the_same_and_none_is_the_recipe():
    for study in STUDIES.values():
        tried = [recipe(study, study.method, **variant.changes).fingerprint() for variant in study.variants]
        tried.append(recipe(study, study.method).fingerprint())
        assert len(set(tried)) == len(tried)


def test_every_recipe_of_a_study_is_a_row_of_it():
    for study in STUDIES.values():
        files = {path.stem for path in (CONFIGS / study.name).glob("*.yaml")}
        assert files - {"small"} | {study.method} == {row.name for row in study.rows}
        assert {study.natural, study.certified_row, *study.timed} - {study.method} <= files


def test_an_objective_is_replaced_and_not_mixed_with_the_one_below():
    natural, method = recipe(MNIST, "natural"), recipe(MNIST, "method")
    assert isinstance(natural.objective(), Natural)
    assert isinstance(method.objective(), NoisyNatural)
    assert natural.values()["data"] == method.values()["data"]
    assert "select" not in recipe(MNIST, "pgd").values()["model"]["objective"]["init_args"]


def test_the_smaller_forms_of_cifar10_have_a_small_network_under_every_row_without_one_of_its_own():
    for row in CIFAR10.rows:
        full, small = (recipe_of(CIFAR10, row, configs=CONFIGS, seed=0, changes={}, small=s) for s in (False, True))
        own = full.values()["model"]["architecture"] != "resnet18_cifar"
        architecture = full.values()["model"]["architecture"] if own else "small_cnn_cifar"
        assert small.values()["model"]["architecture"] == architecture
        assert small.values()["model"]["objective"] == full.values()["model"]["objective"]
        assert small.model(10)(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert recipe_of(MNIST, MNIST.rows[0], configs=CONFIGS, seed=0, changes={}, small=True) == recipe(MNIST, "natural")


def test_another_recipe_has_another_fingerprint(tmp_path):
    known = recipe(MNIST, "natural")
    assert known.fingerprint() == recipe(MNIST, "natural").fingerprint()
    assert known.fingerprint() != recipe(MNIST, "noise_only").fingerprint()
    assert known.fingerprint() != recipe(MNIST, "natural", **{"trainer.max_epochs": 1}).fingerprint()
    shutil.copytree(CONFIGS, tmp_path / "configs")
    file = tmp_path / "configs/mnist/natural.yaml"
    file.write_text(file.read_text().replace("max_epochs: 5", "max_epochs: 6"))
    changed = recipe_of(MNIST, MNIST.row("natural"), configs=tmp_path / "configs", seed=0, changes={})
    assert changed.fingerprint() != known.fingerprint()


def test_a_shorter_schedule_has_everything_on_its_way_sooner():
    whole = recipe(MNIST, "interval_bound")
    ours, values = whole.shorter(1 / 2), whole.values()
    assert (whole.num_epochs, ours.num_epochs, whole.shorter(0.001).num_epochs) == (24, 12, 1)
    shorter = ours.values()
    assert shorter["data"]["shift_epochs"] == values["data"]["shift_epochs"] / 2
    assert shorter["model"]["optimization"]["warmup_epochs"] == values["model"]["optimization"]["warmup_epochs"] / 2
    ramp, ramp_whole = (one["model"]["objective"]["init_args"]["ramp_steps"] for one in (shorter, values))
    assert (ramp, type(ramp)) == (ramp_whole / 2, int)
    assert ours.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_in_a_trial_of_a_learning_rate_every_objective_comes_to_what_it_is_to_be(study, tmp_path):
    names = tuple(row.name for row in study.rows)
    ours = settings(tmp_path, study=study, rows=names, assumed=study.num_images)
    trials = rates_to_try(ours)
    assert len(trials) == 3 * len(names)
    for run in trials:
        values = run.recipe.values()
        assert run.recipe.ramp_steps <= values["trainer"]["max_epochs"] * ours.steps_per_epoch(values["data"])


def test_a_recipe_may_say_a_number_as_1e_3_and_have_more_callbacks_than_the_probe(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    file = tmp_path / "configs/mnist/natural.yaml"
    given = yaml.safe_load(file.read_text())
    probes = yaml.safe_load((CONFIGS / "mnist.yaml").read_text())["trainer"]["callbacks"]
    given["trainer"]["callbacks"] = [*probes, {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]
    given |= {"model": given.get("model", {}) | {"optimization": {"base_learning_rate": "RATE"}}}
    file.write_text(yaml.safe_dump(given).replace("RATE", "1e-3"))
    ours = settings(tmp_path, rows=("natural",), configs=tmp_path / "configs", assumed=MNIST.num_images)
    runs = rates_to_try(ours)
    rates = [run.recipe.values()["model"]["optimization"]["base_learning_rate"] for run in runs]
    assert rates == [0.0005, 0.001, 0.002]
    probe, average = runs[0].recipe.values()["trainer"]["callbacks"]
    assert probe["init_args"] == probes[0]["init_args"] | {"num_images": 1000}
    assert average == given["trainer"]["callbacks"][-1]


def test_a_folder_without_the_recipes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"There is no .*cifar10\.yaml\. Run this in a clone"):
        recipe_of(CIFAR10, CIFAR10.rows[0], configs=tmp_path, seed=0, changes={})
