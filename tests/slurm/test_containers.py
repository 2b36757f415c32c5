"""What the batch scripts start in a container, and what it sees there: with stubs in the place of SLURM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.slurm.stubs import SRUN, fit_words

HERE = str(REPOSITORY)
SEEN = f"{HERE}:{HERE},/data/few:/data/few,{{output}}:{{output}}"


def mounts(scripts) -> list[str]:
    """What the container sees besides this folder, DATA, OUTPUT and the cache."""
    (option,) = (word for word in scripts.started() if word.startswith("--container-mounts="))
    *found, _ = option.removeprefix("--container-mounts=").split(",")
    assert found[:3] == SEEN.format(output=scripts.output).split(",")
    return found[3:]


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder outside the clone, with a file of each kind."""
    folder = tmp_path / "else where"
    (folder / "release").mkdir(parents=True)
    for name in ("recipe.yaml", "last.ckpt", "weights.safetensors"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(("mounts", "seen"), [({}, SEEN), ({"MOUNTS": "/a:/b,/c:/d"}, "/a:/b,/c:/d")])
def test_an_image_of_enroot_is_started_by_srun_itself(scripts, mounts, seen):
    image, cache = "/images/lightning sq.sqsh", str(scripts.folder / "cache")
    where = {"VENV": "/nowhere", "XDG_CACHE_HOME": cache} | mounts
    assert scripts.run("slurm/imagenet.sh", CONTAINER_IMAGE=image, **where).returncode == 0
    options = [f"--container-image={image}", f"--container-mounts={seen.format(output=scripts.output)},{cache}:{cache}"]
    options += [f"--container-workdir={HERE}", "env", f"XDG_CACHE_HOME={cache}", "lightning-sq"]
    assert scripts.started() == [*SRUN, *options, *fit_words(scripts.output)]
    assert Path(cache).is_dir()  # or they could not be mounted
    assert scripts.output.is_dir()


@pytest.mark.parametrize(("mounts", "seen"), [({}, SEEN), ({"MOUNTS": "/a:/b,/c:/d"}, "/a:/b,/c:/d")])
def test_an_image_of_apptainer_is_started_by_apptainer_on_every_rank(scripts, mounts, seen):
    image, home = "/images/lightning sq.sif", scripts.folder / "home"
    where = {"VENV": "/nowhere", "HOME": str(home)} | mounts
    assert scripts.run("slurm/imagenet.sh", APPTAINER_IMAGE=image, **where).returncode == 0
    bound = f"{seen.format(output=scripts.output)},{home}/.cache:{home}/.cache"
    program = ["apptainer", "exec", "--nv", "--bind", bound, "--pwd", HERE]
    program += ["--env", f"XDG_CACHE_HOME={home}/.cache", image, "lightning-sq"]
    assert scripts.started() == [*SRUN, *program, *fit_words(scripts.output)]
    assert (home / ".cache").is_dir()


def test_a_recipe_outside_the_clone_is_seen_in_a_container(scripts, elsewhere):
    recipe = elsewhere / "recipe.yaml"
    start = elsewhere / "last.ckpt"
    scripts.run("slurm/imagenet.sh", "--ckpt_path", str(start), CONFIG=str(recipe), **scripts.container())
    assert mounts(scripts) == [f"{recipe}:{recipe}", f"{start}:{start}"]


@pytest.mark.parametrize("model", ["{}/last.ckpt", "ours={}/release", "timm:resnet50@{}/weights.safetensors"])
def test_a_model_outside_the_clone_is_seen_in_a_container(scripts, elsewhere, model):
    path = re.search(r"/[^@]+$", model.format(elsewhere))[0]
    scripts.run("slurm/evaluate.sh", MODEL=model.format(elsewhere), **scripts.container())
    assert mounts(scripts) == [f"{path}:{path}"]


def test_what_lies_behind_a_link_is_seen_by_both_names_and_what_lies_in_the_clone_needs_no_word(scripts, elsewhere):
    link, real = scripts.folder / "link.ckpt", elsewhere / "last.ckpt"
    link.symlink_to(real)
    scripts.run("slurm/evaluate.sh", MODEL=str(link), **scripts.container())
    assert mounts(scripts) == [f"{real}:{real}", f"{real}:{link}"]
    for model in ("README.md", str(REPOSITORY / "README.md"), "hf-hub:org/name", "resnet50.tag", "nowhere/last.ckpt"):
        scripts.run("slurm/evaluate.sh", MODEL=model, **scripts.container())
        assert mounts(scripts) == []


@pytest.mark.parametrize("image", ["CONTAINER_IMAGE", "APPTAINER_IMAGE"])
def test_every_folder_for_downloads_that_is_set_is_seen_in_a_container(scripts, image):
    names = ("XDG_CACHE_HOME", "LIGHTNING_SQ_CACHE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
    folders = {name: str(scripts.folder / "caches" / name) for name in names}
    assert scripts.run("slurm/imagenet.sh", **folders, **{image: "image"}).returncode == 0
    seen = [SEEN.format(output=scripts.output), *(f"{folder}:{folder}" for folder in folders.values())]
    assert any(word.removeprefix("--container-mounts=") == ",".join(seen) for word in scripts.started())
    assert all(Path(folder).is_dir() for folder in folders.values())


def test_a_link_in_the_clone_that_leads_through_another_link_can_be_followed_in_a_container(scripts, tmp_path):
    clone, lustre = tmp_path / "clone", tmp_path / "lustre"
    (clone / "data").mkdir(parents=True)
    (clone / "slurm").symlink_to(REPOSITORY / "slurm")
    (lustre / "me/imagenet").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to("lustre")  # beside itself
    (clone / "data/imagenet").symlink_to(tmp_path / "scratch/me/imagenet")
    (clone / "data/ring").symlink_to("ring")
    where = {"SLURM_SUBMIT_DIR": str(clone), **scripts.container()}
    assert scripts.run("slurm/imagenet.sh", DATA="data/imagenet", **where).returncode == 0
    (option,) = (word for word in scripts.started() if word.startswith("--container-mounts="))
    real, met = lustre / "me/imagenet", tmp_path / "scratch/me/imagenet"
    mounts = [f"{clone}:{clone}", f"{real}:{real}", f"{real}:{met}", f"{scripts.output}:{scripts.output}"]
    cache = scripts.folder / "cache"
    assert option == f"--container-mounts={','.join(mounts)},{cache}:{cache}"
    assert scripts.run("slurm/imagenet.sh", DATA="data/ring", **where).returncode == 0  # ends
