"""The real command line: killed and resumed, in two processes, and with what it must refuse."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.__main__ import main
from lightning_sq.commands.evaluate import _same_input
from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.evaluation.suites import catalogue
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from lightning_sq.output_lock import lock_output
from tests.conftest import REPOSITORY
from tests.ports import port_that_stays_free
from tests.sentences import assert_one_sentence

TIMES = ("created", "seconds", "num_processes", "device")  # a process of two has half the threads


@pytest.fixture(scope="module")
def releases(tmp_path_factory, few_digits):
    """Two untrained models on the digits: with a quantizer and without."""
    folder = tmp_path_factory.mktemp("releases")
    for name, quantizer in {"plain": None, "quantized": QuantizerConfig(4, 60.0)}.items():
        write_untrained(folder / name, few_digits, quantizer)
    return folder


def write_untrained(folder: Path, data: Path, quantizer: QuantizerConfig | None = None, image_size: int = 32) -> None:
    names = tuple(sorted(path.name for path in (data / "train").iterdir()))
    torch.manual_seed(0)
    config = ModelConfig("test_resnet", names, (0.5,) * 3, (0.25,) * 3, image_size, 36, quantizer)
    write_release(folder, TrainedModel(config, build_model(config).state_dict()), "# a test's\n")


def words(releases, data, output, *options) -> list[str]:
    models = [f"plain={releases / 'plain'}", f"quantized={releases / 'quantized'}"]
    attacks = ["--attacks", "fgsm,pgd:num_steps=10,quantized_box:num_steps=10,apgd_ce:num_steps=20"]
    fast = ["--epsilon", "1/255,2/255", "--batch-size", "7", "--num-images", "30", "--device", "cpu"]
    return ["evaluate", *models, "--data", str(data), "--output", str(output), *attacks, *fast, *options]


FEW = ("--attacks", "fgsm,quantized_box", "--epsilon", "1/255")
"""Attacks, for what is not about them."""


def command(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"MASTER_PORT": str(port_that_stays_free())}
    words = [sys.executable, "-m", "lightning_sq", *arguments]
    return subprocess.Popen(words, cwd=REPOSITORY, env=environment, **options)


@contextmanager
def one_thread() -> Iterator[None]:
    """As in each of two processes on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def found(output: Path) -> dict:
    results = json.loads((output / "results.json").read_text())
    for key in TIMES:
        results.pop(key)
    for model in results["models"]:
        for row in model["attacks"]:
            row.pop("seconds")
        for row, key in [(model, "input_gradient_l1"), *((row, "measured") for row in model["diagnostics"])]:
            row[key] = float(f"{row[key]:.4g}")  # a sum over other batches rounds otherwise
    return results


@pytest.mark.end_to_end
def test_killed_and_resumed_and_in_two_processes_it_finds_the_same(releases, few_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another number of threads rounds otherwise
    with one_thread():
        assert main(words(releases, few_digits, tmp_path / "whole")) == 0

    killed = command(*words(releases, few_digits, tmp_path / "killed", "--devices", "2"), start_new_session=True)
    store = tmp_path / "killed/verdicts/quantized/rank-0.sqlite"
    while not store.exists() and killed.poll() is None:
        time.sleep(0.05)
    assert killed.poll() is None, "it was too fast to be killed"
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/results.json").exists()
    resumed = command(*words(releases, few_digits, tmp_path / "killed", "--devices", "2"), stdout=subprocess.PIPE)
    text = resumed.communicate()[0].decode()
    assert resumed.returncode == 0
    assert text.count("Going on with the verdicts") == 1
    assert text.count("withstood every attack at 2/255") == 2  # process 0 alone speaks
    assert found(tmp_path / "killed") == found(tmp_path / "whole")
    left = sorted(str(path.relative_to(tmp_path / "killed")) for path in (tmp_path / "killed").rglob("*.*"))
    assert left == [
        *("examples.safetensors", "report.html", "results.csv", "results.json"),
        *("robustbench/plain.json", "robustbench/quantized.json", "robustness.png"),
    ]


def test_an_evaluation_that_broke_off_at_its_page_is_ended_by_the_same_command(
    releases, few_digits, tmp_path, monkeypatch, capsys
):
    def no_room(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "report.html"))

    command = ["evaluate", str(releases / "plain"), "--data", str(few_digits), "--attacks", "pgd", "--device", "cpu"]
    command += ["--epsilon", "1/255", "--num-images", "4", "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("lightning_sq.evaluation.report.write_report", no_room)
        assert main(command) != 0
    assert (tmp_path / "out/results.json").exists()
    assert main(command) == 0
    assert (tmp_path / "out/report.html").exists()
    assert main(command) == 2
    assert "already holds results. Add --overwrite" in capsys.readouterr().err


def test_unreadable_images_are_an_error_unless_they_are_allowed(releases, few_digits, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(few_digits / "val", data)
    next((data / "3").iterdir()).write_bytes(b"no image")
    quick = ["evaluate", str(releases / "plain"), "--data", str(data), "--attacks", "pgd", "--output"]
    assert main([*quick, str(tmp_path / "out")]) == 2
    assert "1 of the images" in (said := capsys.readouterr().err)
    assert "--allow-unreadable" in said
    assert not (tmp_path / "out").exists()
    assert main([*quick, str(tmp_path / "out"), "--allow-unreadable"]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["data"]["unreadable"] == 1
    assert results["data"]["num_images"] == 39


def test_the_labels_of_a_folder_with_some_of_the_classes_are_those_of_the_model(releases, few_digits, tmp_path):
    data = tmp_path / "data"
    for name in ("7", "2"):
        shutil.copytree(few_digits / "val" / name, data / name)
    accuracies = []
    for folder in (few_digits / "val", data):
        output = tmp_path / f"of-{folder.name}"
        quick = ["--data", str(folder), "--attacks", "fgsm", "--output", str(output)]
        assert main(["evaluate", str(releases / "plain"), *quick]) == 0
        results = found(output)
        verdicts = dict(zip(results["data"]["files"], results["models"][0]["verdicts"]["clean"], strict=True))
        accuracies.append({file: bit for file, bit in verdicts.items() if file[0] in "72"})
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[1]) == 8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epsilon", "8"], "Write 8/255"),
        (["--attacks", "pgdd"], "no linf attack 'pgdd'"),
        (["--norm", "l2", "--attacks", "quantized_box"], "no l2 attack"),
        (["--seed", "-1"], "0 or more"),
        (["--num-images", "0"], "--num-images 0 is not at least 1"),
        (["--device", "gpu"], "is no device"),
        (["--device", "mps"], "is not one of cpu, cuda"),
        (["--output", str(REPOSITORY / "README.md")], "is a file"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_has_one_sentence_and_leaves_nothing(releases, few_digits, tmp_path, capsys, options, sentence):
    output = tmp_path / "out"
    arguments = ["evaluate", str(releases / "plain"), "--data", str(few_digits), "--output", str(output), *options]
    assert_one_sentence((main(arguments), capsys.readouterr().err), sentence)
    assert not output.exists()


def test_images_of_a_class_that_the_model_does_not_know_are_refused(releases, few_digits, tmp_path, capsys):
    data = tmp_path / "data"
    for ours, theirs in (("2", "2"), ("7", "7b")):
        shutil.copytree(few_digits / "val" / ours, data / theirs)
    assert main(["evaluate", str(releases / "plain"), "--data", str(data), "--output", str(tmp_path / "out")]) == 2
    assert f"The model knows no class '7b' of {data}. Give data with the classes" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("a=", "a="), ("", "plain=")])
def test_two_models_of_one_name_are_refused(releases, few_digits, tmp_path, capsys, names):
    models = [f"{name}{releases / 'plain'}" for name in names]
    assert main(["evaluate", *models, "--data", str(few_digits), "--output", str(tmp_path / "out")]) == 2
    assert "Two models have the same name. Write NAME=MODEL for each." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_evaluation_is_writing_into_is_left_to_it(releases, few_digits, tmp_path, capsys):
    with ExitStack() as held:
        lock_output(tmp_path / "out", held)
        assert main(words(releases, few_digits, tmp_path / "out", "--overwrite")) == 2
    assert re.search(r"out is in use by process \d+ on .* Wait for it or end it", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_results_are_replaced_only_when_asked(releases, few_digits, tmp_path, capsys, monkeypatch):
    once = [
        "evaluate",
        str(releases / "plain"),
        "--data",
        str(few_digits),
        "--attacks",
        "fgsm",
        "--output",
        str(tmp_path),
    ]
    assert main(once) == 0
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert main(once) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not (tmp_path / ".job").exists()
    assert main([*once, "--overwrite"]) == 0
    assert (tmp_path / ".job").read_text() == "7\n"


@pytest.fixture
def killed(monkeypatch):
    """Runs a command that is killed in the attack by the quantized box; tells how often FGSM was made."""

    def run(words) -> int:
        made, whole = [], StageRunner._attack

        def until_then(self, stage, *rest):
            if stage.startswith("quantized_box"):
                raise InputError("Killed.")
            made.append(stage)
            return whole(self, stage, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(StageRunner, "_attack", until_then)
            assert main(words) == 2
        return sum(stage.startswith("fgsm") for stage in made)

    return run


def test_started_again_with_overwrite_it_goes_on_where_it_was(releases, few_digits, tmp_path, killed):
    """Beside the results that it is to replace, and whether a cluster or a person starts it again."""
    words_ = [*words(releases, few_digits, tmp_path, *FEW), "--overwrite"]
    (tmp_path / "results.json").write_text("{}")
    assert killed(words_) > 0
    assert killed(words_) == 0
    assert (tmp_path / "results.json").read_text() == "{}"


def test_overwrite_drops_verdicts_of_another_evaluation_and_nothing_else_does(
    releases, few_digits, tmp_path, killed, capsys
):
    before, after = (words(releases, few_digits, tmp_path, *FEW, "--seed", seed) for seed in "12")
    first = killed(before)
    assert killed(after) == 0
    told = capsys.readouterr().err
    assert "holds verdicts of another evaluation (images, labels, seed differ). Add --overwrite to drop them" in told
    assert killed([*after, "--overwrite"]) == first
    (tmp_path / "verdicts/plain/rank-0.sqlite").write_bytes(b"no database" * 100)
    assert 0 < killed([*after, "--overwrite"]) < first  # of the other model there are some still


def test_verdicts_of_other_models_are_not_dropped_unasked(releases, few_digits, tmp_path, killed, capsys):
    both = words(releases, few_digits, tmp_path, *FEW)
    one = [word for word in both if not word.startswith("quantized=")]
    assert killed(both) > 0
    (tmp_path / "results.json").write_text("{}")
    assert main(one) == 2
    told = capsys.readouterr().err
    assert "verdicts holds verdicts of quantized, which is none of these models. Add --overwrite" in told
    assert (tmp_path / "verdicts/quantized/rank-0.sqlite").exists()
    assert (tmp_path / "results.json").read_text() == "{}"
    assert main([*one, "--overwrite"]) == 0
    assert [row["name"] for row in json.loads((tmp_path / "results.json").read_text())["models"]] == ["plain"]
    assert not (tmp_path / "verdicts").exists()


def test_two_processes_drop_verdicts_of_another_evaluation_together(releases, few_digits, tmp_path, killed):
    assert killed(words(releases, few_digits, tmp_path, *FEW, "--seed", "1")) > 0
    again = words(releases, few_digits, tmp_path, *FEW, "--seed", "2", "--devices", "2", "--overwrite")
    done = command(*again, stdout=subprocess.PIPE, text=True)
    text, _ = done.communicate(timeout=300)
    assert done.returncode == 0
    assert text.count("Dropped, because of --overwrite: ") == 2  # once for each model


def transfers(output: Path) -> tuple[set[str], list[set[str]]]:
    """Those that are listed, and those that were run on each model."""
    results = found(output)
    run = [{name for name in row["verdicts"]["attacks"] if "transfer" in name} for row in results["models"]]
    return {name for name in results["attacks"] if "transfer" in name}, run


@pytest.fixture
def quick(few_digits, tmp_path):
    fast = ["--attacks", "fgsm", "--num-images", "8", "--device", "cpu", "--output", str(tmp_path / "out")]
    return ["evaluate", "--data", str(few_digits), *fast]


def test_a_source_with_the_name_of_the_model_is_another_model_and_is_used(releases, quick, tmp_path):
    model, source = (f"pgd={releases / name}" for name in ("plain", "quantized"))
    assert main([*quick, model, "--transfer-from", source]) == 0
    assert transfers(tmp_path / "out") == ({"transfer_pgd"}, [{"transfer_pgd"}])


def test_a_source_that_is_a_model_of_the_command_is_tried_on_the_others_once(releases, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(releases)
    models = [f"{name}={releases / name}" for name in ("plain", "quantized")]
    assert main([*quick, *models, "--transfer-from", "plain=plain"]) == 0
    listed, run = transfers(tmp_path / "out")
    assert listed == {"transfer_plain", "transfer_quantized"}
    assert run == [{"transfer_quantized"}, {"transfer_plain"}]


def test_a_name_that_two_sources_could_have_is_refused(releases, quick, tmp_path, capsys):
    models = [f"{name}={releases / name}" for name in ("plain", "quantized")]
    assert main([*quick, *models, "--transfer-from", f"plain={releases / 'quantized'}"]) == 2
    assert "Give one of them another name, such as --transfer-from other_plain=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_source_whose_images_fit_no_model_is_refused(releases, quick, few_digits, tmp_path, capsys):
    write_untrained(tmp_path / "smaller", few_digits, image_size=24)
    assert main([*quick, str(releases / "plain"), "--transfer-from", str(tmp_path / "smaller")]) == 2
    assert "smaller takes images of another size or other channels than the models" in capsys.readouterr().err


def test_models_whose_images_do_not_fit_each_other_are_not_said_to_be_tried(releases, quick, few_digits, tmp_path):
    write_untrained(tmp_path / "smaller", few_digits, image_size=24)
    assert main([*quick, str(releases / "plain"), str(tmp_path / "smaller")]) == 0
    assert transfers(tmp_path / "out") == (set(), [set(), set()])
    plain, smaller = found(tmp_path / "out")["models"]
    assert plain["skipped"]["transfer_smaller"] == (
        "that model takes images of another size or other channels, or has other classes"
    )
    assert "transfer_plain" in smaller["skipped"]
    assert "<td>transfer_smaller</td>" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    "other", [{"num_channels": 1}, {"image_size": 28}, {"resize_size": 36}, {"class_names": ("a",)}]
)
def test_only_a_model_that_takes_the_same_images_lends_them(other):
    usual = {"image_size": 32, "resize_size": 32, "num_channels": 3, "class_names": ("a", "b")}
    ours, theirs = (SimpleNamespace(config=SimpleNamespace(**usual | more)) for more in ({}, other))
    assert _same_input(ours, ours)
    assert not _same_input(ours, theirs)


def test_every_attack_is_listed(capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "--list-attacks"])
    assert left.value.code in (0, None)
    lines = capsys.readouterr().out.splitlines()
    for name, entry in catalogue().items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert f" {entry.title} " in f"{line} "  # and what suites it is in stands apart
    assert lines[-1] == "step_size is in radii of the ball: 1 is epsilon, None is 2.5 / num_steps."
