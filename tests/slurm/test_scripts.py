"""What the batch scripts start, word by word: with stubs in the place of SLURM."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.stubs import SRUN, fit_words


def test_a_virtual_environment_is_started_by_its_path(scripts):
    assert scripts.run("slurm/imagenet.sh", "--trainer.max_epochs", "3").returncode == 0
    expected = fit_words(scripts.output, "--trainer.max_epochs", "3")
    assert scripts.started() == [*SRUN, scripts.program, *expected]
    assert (scripts.stubs / "threads").read_text() == "3 3\n"


@pytest.mark.parametrize("recipe", ["imagenet", "imagenet_fgsm_rs"])
def test_a_run_is_kept_by_its_recipes_name_where_nothing_else_is_said(scripts, recipe):
    assert scripts.run("slurm/imagenet.sh", CONFIG=f"configs/{recipe}.yaml", OUTPUT="").returncode == 0
    words = scripts.started()
    assert words[words.index("--output") + 1] == f"runs/{recipe}"


def test_without_an_environment_or_an_image_it_says_what_to_do_and_is_not_queued_again(scripts):
    done = scripts.run("slurm/imagenet.sh", VENV="/nowhere")
    assert done.returncode == 2
    sentence = "There is no /nowhere/bin/lightning-sq. Run make setup, or set VENV, CONTAINER_IMAGE or APPTAINER_IMAGE."
    assert done.stderr == f"{sentence}\n"
    assert not (scripts.stubs / "srun.words").exists()
    assert scripts.asked() == []


@pytest.mark.parametrize("script", ["imagenet", "evaluate"])
@pytest.mark.parametrize("words", [("--output", "runs/b"), ("--output=runs/b",)])
def test_an_output_that_the_script_does_not_know_of_is_refused(scripts, script, words):
    done = scripts.run(f"slurm/{script}.sh", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("Set OUTPUT in the place of --output")
    assert not (scripts.stubs / "srun.words").exists()


def test_a_task_of_an_array_attacks_its_own_model_into_its_own_folder(scripts):
    models = "ours=runs/a/release natural=runs/b/release"
    for task, model in enumerate(models.split()):
        done = scripts.run("slurm/evaluate.sh", "--batch-size", "4", MODELS=models, SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
        words = ["evaluate", model, "--data", "/data/few", "--epsilon", "4/255", "--output", f"{scripts.output}-{task}"]
        words += ["--device", "cuda"]
        assert scripts.started() == [*SRUN, scripts.program, *words, "--batch-size", "4"]
        assert Path(f"{scripts.output}-{task}").is_dir()
    done = scripts.run("slurm/evaluate.sh", MODELS=models, SLURM_ARRAY_TASK_ID="2")
    assert done.returncode != 0
    assert "MODELS names fewer models than the array has tasks" in done.stderr


def test_several_models_without_an_array_are_refused_and_no_other_is_attacked(scripts):
    done = scripts.run("slurm/evaluate.sh", MODELS="ours=runs/a/release natural=runs/b/release")
    assert done.returncode == 2
    assert done.stderr == "MODELS needs a job array: sbatch --array=0-1 slurm/evaluate.sh\n"
    assert not (scripts.stubs / "srun.words").exists()


@pytest.mark.parametrize("script", ["imagenet", "evaluate"])
def test_a_script_that_is_submitted_from_elsewhere_says_from_where_to_submit_it(scripts, tmp_path, script):
    done = scripts.run(f"slurm/{script}.sh", SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    said = f"Submit this from the clone's folder: cd CLONE && sbatch slurm/{script}.sh"
    assert done.stderr.splitlines()[-1] == said
    assert not (scripts.stubs / "srun.words").exists()
