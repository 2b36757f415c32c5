"""`lightning-sq plan` on the command line."""

from __future__ import annotations

import json

import pytest
import yaml

from lightning_sq.__main__ import main
from tests.conftest import REPOSITORY

IMAGENET = ["--num-images", "1281167", "--num-validation-images", "50000", "--images-per-second", "1000"]


@pytest.fixture
def plan(capsys):
    """(status, standard output, standard error)"""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["plan", "--config", str(REPOSITORY / "configs/imagenet.yaml"), *words])
        return status, *capsys.readouterr()

    return run


def test_a_plan_says_time_batch_rate_and_sizes_of_one_to_sixty_four_nodes(plan):
    status, text, _ = plan(*IMAGENET, "--nodes", "3", "--gpus-per-node", "4", "--time-limit", "2:00:00", "--json")
    assert status == 0
    found = json.loads(text)
    rows = {row["nodes"]: row for row in found["rows"]}
    assert list(rows) == [1, 2, 3, 4, 8, 16, 32, 64]
    (asked,) = (row for row in found["rows"] if row["asked_for"])
    assert asked["global_batch_size"] == 3 * 4 * 256
    assert asked["learning_rate"] == pytest.approx(0.02 * 12)
    assert asked["warmup_steps"] == 418  # an epoch: 1281167 / 3072, rounded up
    assert asked["steps"] == 15 * 418
    assert found["parameters"] == 25557032  # ResNet-50
    assert found["checkpoint_bytes"] == 8 * found["parameters"]
    assert rows[1]["fits"] is (rows[1]["hours"] <= 2)
    validated = 2 * 50000  # on clean images and, as the objective adds noise, on noisy ones
    assert rows[1]["hours"] == pytest.approx(15 * (1281167 + validated / 3) / 4000 / 3600, rel=0.005)
    assert rows[64]["hours"] < rows[1]["hours"]
    assert rows[64]["gpu_hours"] > rows[1]["gpu_hours"]


def test_a_plan_counts_the_steps_that_a_fit_of_the_recipe_takes(plan, tmp_path):
    recipe = yaml.safe_load((REPOSITORY / "configs/imagenet.yaml").read_text())
    recipe["model"]["optimization"]["warmup_epochs"] = 2.0
    whole = 5005  # 1281167 / 256, rounded up
    for limits, steps, warmup, validations in (
        ({}, 15 * whole, 2 * whole, 15),
        ({"limit_train_batches": 0.5}, 15 * 2502, 2 * 2502, 15),
        ({"limit_train_batches": 100, "accumulate_grad_batches": 8}, 15 * 13, 2 * 13, 15),
        ({"max_steps": 6000}, 6000, 6000, 1),
        ({"check_val_every_n_epoch": 4}, 15 * whole, 2 * whole, 3),
        ({"val_check_interval": 0.25}, 15 * whole, 2 * whole, 15 * 4),
        ({"check_val_every_n_epoch": None, "val_check_interval": 10000}, 15 * whole, 2 * whole, 7),
        ({"limit_val_batches": 0}, 15 * whole, 2 * whole, 0),
        ({"limit_val_batches": 10}, 15 * whole, 2 * whole, 15 * 2560 / 50000),
    ):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"trainer": recipe["trainer"] | limits}))
        text = plan("--config", str(tmp_path / "recipe.yaml"), *IMAGENET, "--gpus-per-node", "1", "--json")[1]
        row = json.loads(text)["rows"][0]
        assert (row["steps"], row["warmup_steps"]) == (steps, warmup), limits
        assert row["hours"] * 3600 == pytest.approx(steps * row["step_seconds"] + validations * 2 * 50 / 3)
    recipe["model"]["objective"] = {"class_path": "lightning_sq.objectives.Natural"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = plan("--config", str(tmp_path / "recipe.yaml"), *IMAGENET, "--gpus-per-node", "1", "--json")[1]
    row = json.loads(text)["rows"][0]
    assert row["hours"] * 3600 == pytest.approx(15 * (whole * row["step_seconds"] + 50 / 3))


def test_a_second_recipe_is_laid_over_the_first_as_fit_lays_it(plan, tmp_path, capsys):
    (tmp_path / "longer.yaml").write_text("trainer: {max_epochs: 90}\nmodel: {optimization: {warmup_epochs: 5}}")
    status, text, _ = plan("--config", str(tmp_path / "longer.yaml"), *IMAGENET, "--gpus-per-node", "1", "--json")
    assert status == 0
    found = json.loads(text)
    assert found["config"].endswith(f"configs/imagenet.yaml and {tmp_path}/longer.yaml")
    row = found["rows"][0]
    assert (row["steps"], row["warmup_steps"], row["global_batch_size"]) == (90 * 5005, 5 * 5005, 256)
    assert row["learning_rate"] == pytest.approx(0.02)  # the first one's
    assert main(["plan", "--config", str(tmp_path / "longer.yaml"), *IMAGENET]) == 2
    assert "longer.yaml is no recipe: it lacks model, data or trainer" in capsys.readouterr().err


def test_the_short_run_is_of_every_recipe_that_was_given(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("lightning_sq.commands.plan.refusal_of", lambda words: asked.extend(words) or "No.")
    one, two = str(REPOSITORY / "configs/mnist.yaml"), str(REPOSITORY / "configs/mnist/natural.yaml")
    assert main(["plan", "--config", one, "--config", two]) == 2
    assert asked[:5] == ["fit", "--config", one, "--config", two]


def test_a_checkpoint_of_averaged_weights_holds_those_that_are_trained_too(plan, tmp_path):
    recipe = yaml.safe_load((REPOSITORY / "configs/imagenet.yaml").read_text())
    averages = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}
    for callbacks, copies in (([averages], 3), ([], 2), (None, 2)):
        (tmp_path / "recipe.yaml").write_text(
            yaml.safe_dump(recipe | {"trainer": recipe["trainer"] | {"callbacks": callbacks}})
        )
        found = json.loads(plan("--config", str(tmp_path / "recipe.yaml"), *IMAGENET, "--json")[1])
        assert found["checkpoint_bytes"] == 4 * copies * found["parameters"]


def test_the_table_has_a_row_for_each_number_of_nodes(plan):
    status, text, _ = plan(*IMAGENET, "--time-limit", "48:00:00")
    assert status == 0
    assert text.count(" yes") == 7
    assert "25.6 M parameters; a checkpoint is about 204 MB" in text
    rates = [words[4] for words in map(str.split, text.splitlines()) if words[-1:] == ["yes"]]
    assert [rate.endswith("*") for rate in rates] == [False] * 3 + [True] * 4  # of 8 nodes on: 16,384 images a step
    assert "are published up to 8,192 images a step" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "is no recipe: it lacks model, data or trainer"),
        ({"trainer": {"max_epochs": "ten"}}, "says no trainer.max_epochs of at least 1"),
        ({"model": {"optimization": {"learning_rate": 0.1}}}, "model.optimization of"),
        ({"trainer": {"max_epochs": 2, "val_check_interval": "00:01:00:00"}}, "validates by the clock"),
        ({"trainer": {"max_epochs": 2, "check_val_every_n_epoch": 0}}, "n_epoch=0, which is not above 0"),
    ],
)
def test_a_recipe_with_a_slip_is_one_sentence(changes, sentence, tmp_path, capsys):
    recipe = yaml.safe_load((REPOSITORY / "configs/imagenet.yaml").read_text())
    (tmp_path / "slip.yaml").write_text(yaml.safe_dump(recipe | changes))
    assert main(["plan", "--config", str(tmp_path / "slip.yaml"), *IMAGENET]) == 2
    assert sentence in capsys.readouterr().err
    whole = recipe | {"model": recipe["model"] | {"optimization": None}}
    (tmp_path / "slip.yaml").write_text(yaml.safe_dump(whole))
    assert main(["plan", "--config", str(tmp_path / "slip.yaml"), *IMAGENET]) == 0  # by the defaults


def test_one_speed_is_not_measured_of_images_that_grow(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_sq.commands.plan.refusal_of", lambda words: pytest.fail("it was measured"))
    callback = {"class_path": "lightning_sq.training.resizing.ProgressiveResizing"}
    trainer = {"max_epochs": 2, "callbacks": [callback | {"init_args": {"sizes": [[0, 128], [1, 224]]}}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {}, "data": {}, "trainer": trainer}))
    assert main(["plan", "--config", "recipe.yaml", *IMAGENET[:4]]) == 2
    assert "take the speed of the smallest for all. Give --images-per-second" in capsys.readouterr().err
    assert main(["plan", "--config", "recipe.yaml", *IMAGENET]) == 0


def test_a_number_without_a_point_is_a_number_as_it_is_to_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rest = "data: {}\ntrainer: {max_epochs: 2, limit_train_batches: 5e-1}"
    (tmp_path / "recipe.yaml").write_text(f"model: {{optimization: {{base_learning_rate: 1e-4}}}}\n{rest}")
    assert main(["plan", "--config", "recipe.yaml", *IMAGENET, "--gpus-per-node", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["learning_rate"] == pytest.approx(1e-4 * 32 / 256)
    assert row["steps_per_epoch"] == 20018  # half of 1281167 / 32, rounded up


def test_a_file_that_is_no_text_is_no_recipe(tmp_path, capsys):
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04\xe7")
    assert main(["plan", "--config", str(tmp_path / "last.ckpt"), *IMAGENET]) == 2
    assert "cannot be read (UnicodeDecodeError). Give a recipe." in capsys.readouterr().err


def test_a_recipe_whose_short_run_logs_no_speed_is_told_the_way_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_sq.commands.plan.refusal_of", lambda words: None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {}, "data": {}, "trainer": {"max_epochs": 2}}))
    assert main(["plan", "--config", str(tmp_path / "recipe.yaml"), *IMAGENET[:4]]) == 2
    assert "logged no speed. Give --images-per-second." in capsys.readouterr().err


def test_the_network_is_the_one_that_is_described(plan):
    words = ["--bandwidth", "3", "--bandwidth-inside", "50", "--latency", "7", "--overlap", "0.25", "--json"]
    network = {"bandwidth": 3e9, "bandwidth_inside": 5e10, "latency": 7e-6, "overlap": 0.25}
    assert json.loads(plan(*IMAGENET, *words)[1])["network"] == pytest.approx(network)


def test_the_speed_of_a_short_run_is_that_of_its_second_epoch(plan, monkeypatch):
    monkeypatch.setattr("lightning_sq.commands.plan.refusal_of", lambda words: None)
    monkeypatch.setattr("lightning_sq.commands.plan.training_curve", lambda *_: [{"rate": 1.0}, {"rate": 5.0}])
    assert json.loads(plan(*IMAGENET[:4], "--json")[1])["images_per_second"] == 5.0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--nodes", "0"], ["--nodes 0 is not at least 1"]),
        (["--images-per-second", "0"], ["--images-per-second 0 is not above 0"]),
        (["--latency", "-1"], ["--latency -1 is not at least 0"]),
        (["--overlap", "2"], ["--overlap 2 is not in [0, 1]"]),
        (["--images-per-second", "5"], ["no images in data/imagenet/train", "--num-images"]),
        ([*IMAGENET, "--time-limit", "soon"], ["time_limit=soon", "48:00:00"]),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(plan, words, parts, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, text = plan(*words)
    assert status == 2
    assert len(text.strip().splitlines()) == 1
    for part in parts:
        assert part in text


def test_images_are_counted_where_the_data_are_said_to_lie(plan, few_digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the recipe's own folder is not there
    status, text, _ = plan("--data", str(few_digits), "--images-per-second", "5", "--json")
    assert status == 0
    assert json.loads(text)["work"]["num_images"] == 90


def test_what_a_recipe_does_not_say_is_planned_as_fit_has_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without the images, the classes of ImageNet
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {}, "data": {}, "trainer": {"max_epochs": 2}}))
    assert main(["plan", "--config", str(tmp_path / "recipe.yaml"), *IMAGENET, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 11689512  # ResNet-18
    assert [found["work"][name] for name in ("batch_size", "accumulate", "batch_repeats")] == [32, 1, 1]


@pytest.mark.end_to_end
def test_the_speed_is_measured_by_a_short_run_where_it_is_not_given(few_digits, tmp_path, capsys):
    recipe = yaml.safe_load((REPOSITORY / "configs/digits_natural.yaml").read_text())
    recipe["data"]["root"], recipe["model"]["architecture"] = "nowhere", "test_resnet"
    recipe["trainer"]["accelerator"] = "cpu"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--config", str(tmp_path / "recipe.yaml"), "--data", str(few_digits), "--gpus-per-node", "1", "--json"]
    assert main(["plan", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images_per_second"] > 0
    assert found["work"]["num_images"] == 90
