"""What the repository says of itself is so."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from lightning_sq.__main__ import COMMANDS, main
from lightning_sq.evaluation.results import read_results
from lightning_sq.evaluation.tables import markdown_table
from lightning_sq.objectives import Natural, NoisyNatural
from lightning_sq.reproduction.claims import judge
from lightning_sq.reproduction.measured import error_to_published, numbers_of_images, on_shared_images, spread_of
from lightning_sq.reproduction.page import PAGE_FILE, is_smaller, markdown, read_study
from lightning_sq.reproduction.studies import STUDIES as STUDIES_BY_NAME
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
NUM_CONFIGS = 26
STUDIES = tuple(STUDIES_BY_NAME)  # recipes whose controls and other rows are laid over them
NOISE = {
    "noise",
    "epsilon",
    "pattern",
    "scales",
    "num_draws",
    "select",
    "num_others",
    "num_refined",
    "num_flips",
    "halve_after",
}  # what Natural has not of NoisyNatural


def test_the_number_of_recipes_is_known():
    assert len(CONFIGS) == NUM_CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_what_and_how(config, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(config), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["output"] == f"runs/{config.stem}"
    told = ("hang_seconds", "checkpoint_minutes", "keep_last")  # in slurm/README.md and docs/training.md
    assert [printed[name] for name in told] == [40, 15, 2]
    header = config.read_text().split("seed_everything")[0]
    assert f"configs/{config.name}" in header
    for line in ("What", "Source", "Run", "Expect", "Cost"):
        assert len(re.findall(rf"^# {line}: +\S", header, re.MULTILINE)) == 1, line


WITH_A_CONTROL = [
    path for path in CONFIGS if not path.stem.endswith(("_natural", "_unquantized")) and path.stem not in STUDIES
]


@pytest.mark.parametrize("name", STUDIES)
def test_the_control_of_a_study_differs_in_quantizer_and_noise_and_in_how_long_it_trains(name):
    config = REPOSITORY / "configs" / f"{name}.yaml"
    (control,) = re.findall(r"^# Control: (\S+)$", config.read_text(), re.MULTILINE)
    assert control == f"{name}/natural.yaml"
    values = yaml.safe_load((config.parent / control).read_text())
    assert values.pop("output") == f"runs/{name}_natural"
    assert values.pop("trainer", {}).keys() <= {"max_epochs"}
    assert values == {"model": {"quantizer": None, "objective": "lightning_sq.objectives.Natural"}}


@pytest.mark.parametrize(
    "row",
    sorted(path for name in STUDIES for path in (REPOSITORY / "configs" / name).glob("*.yaml")),
    ids=lambda p: p.stem,
)
def test_a_row_says_what_it_is_and_how_it_is_run(row):
    text, study = row.read_text(), row.parent.name
    assert re.findall(r"^# (\w+): +\S", text, re.MULTILINE) == ["What", "Source", "Run"]
    assert f"--config configs/{study}.yaml --config configs/{study}/{row.name}" in text
    assert f"\noutput: runs/{study}_{row.stem}\n" in text


@pytest.mark.parametrize("config", WITH_A_CONTROL, ids=lambda path: path.stem)
def test_a_recipe_has_a_control_that_differs_in_quantizer_and_noise_alone(config):
    (name,) = re.findall(r"^# Control: (\S+)$", config.read_text(), re.MULTILINE)
    assert name in (f"{config.stem}_natural.yaml", f"{config.stem}_unquantized.yaml")
    recipe, control = (yaml.safe_load(path.read_text()) for path in (config, config.with_name(name)))
    assert "quantizer" in recipe["model"]
    assert "quantizer" not in control["model"]
    for values in (recipe, control):
        values.pop("output")
        values["model"].pop("quantizer", None)
    if name.endswith("_natural.yaml"):
        for values in (recipe, control):
            objective = values["model"].pop("objective", {"class_path": "lightning_sq.objectives.Natural"})
            assert objective.pop("class_path").split(".")[-1] == ("NoisyNatural" if values is recipe else "Natural")
            options = objective.get("init_args", {})
            values["model"]["objective"] = {key: options[key] for key in options.keys() - NOISE}
    assert recipe == control


def test_the_imagenet_recipe_runs_on_a_folder_of_the_same_shape(few_digits, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    monkeypatch.chdir(tmp_path)
    options = ["--data.root", str(few_digits), "--data.batch_size_per_device", "2", "--model.pretrained", "false"]
    config = str(REPOSITORY / "configs" / "imagenet.yaml")
    assert (
        main(["fit", "--config", config, *options, "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"])
        == 0
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if path.stem.startswith("digits")], ids=lambda path: path.stem
)
def test_a_recipe_for_digits_takes_a_step_and_validates(config, few_digits, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    monkeypatch.chdir(tmp_path)
    options = ["--data.root", str(few_digits), "--model.architecture", "test_resnet", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", str(config), *options, "--trainer.fast_dev_run", "true"]) == 0


def sbatch_scripts():
    return sorted(path for path in (REPOSITORY / "slurm").glob("*.sh") if "#SBATCH" in path.read_text())


@pytest.mark.parametrize("script", sbatch_scripts(), ids=lambda path: path.name)
def test_a_slurm_script_is_valid_and_names_a_recipe_that_exists(script):
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for config in re.findall(r"CONFIG=\$\{CONFIG:-(.*?)\}", text):
        assert (REPOSITORY / config).is_file()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    said = set(re.findall(r"^#   ([A-Z_]+) ", text, re.MULTILINE)) | {"VENV"}
    assert set(re.findall(r"^([A-Z_]+)=\$\{\1:-", text, re.MULTILINE)) <= said


SCRIPTS = [*sorted(REPOSITORY.glob("slurm/*.sh")), *sorted(REPOSITORY.glob("docker/*.sh")), REPOSITORY / ".ci/run"]
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck here")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_a_script(script):
    done = subprocess.run([SHELLCHECK, "-x", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_without_a_recipe_takes_imagenets_and_its_processes_get_their_cpus():
    assert "CONFIG=${CONFIG:-configs/imagenet.yaml}" in (REPOSITORY / "slurm/imagenet.sh").read_text()
    text = (REPOSITORY / "slurm/start.sh").read_text()
    assert re.search(r"^ +export SRUN_CPUS_PER_TASK=.*SLURM_CPUS_PER_TASK", text, re.MULTILINE)


SOURCE = "\n".join(path.read_text() for path in (REPOSITORY / "lightning_sq").rglob("*.py"))
READMES = [
    REPOSITORY / "README.md",
    *sorted(path for path in REPOSITORY.glob("*/README.md") if not path.parent.name.startswith(".")),
    *sorted(REPOSITORY.glob("results/*/README.md")),
    *sorted(REPOSITORY.glob("docs/*.md")),
]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_readme_names_commands_options_and_files_that_exist(readme):
    text = readme.read_text()
    for name in re.findall(r"lightning-sq (\w+)", text):
        assert name in COMMANDS, name
    for line in re.findall(r"lightning-sq \w+(?:[^\n]*\\\n)*[^\n]*", text):
        for option in re.findall(r"(?<!\S)(--[a-z][\w-]*)(?![\w.+-])", line):
            assert f'"{option}"' in SOURCE, option
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (readme.parent / target).exists(), target
    for path in re.findall(r"\b((?:configs|slurm|docker|tests|benchmarks|lightning_sq)/[\w./-]+\w)", text):
        assert (REPOSITORY / path).exists(), path
    for goal in re.findall(r"^ *make (\w+)", text, re.MULTILINE):
        assert f"\n{goal}:" in (REPOSITORY / "Makefile").read_text(), goal


def test_no_default_points_outside_the_project():
    for path in [*CONFIGS, *REPOSITORY.glob("lightning_sq/**/*.py"), *REPOSITORY.glob("slurm/*.sh")]:
        assert "../shared" not in path.read_text(), path


def test_nothing_that_git_is_told_to_ignore_is_in_git():
    listing = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        pytest.skip("no git here")
    assert subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout == ""


def test_a_noise_option_that_the_control_leaves_out_is_one_of_the_noise_alone():
    ours, theirs = (set(inspect.signature(objective).parameters) for objective in (NoisyNatural, Natural))
    assert ours - theirs == NOISE


def test_the_lock_file_has_hashes_and_names_no_index():
    text = (REPOSITORY / "requirements.lock").read_text()
    packages = re.findall(r"^[a-zA-Z][\w.-]*==", text, re.MULTILINE)
    assert len(packages) > 50
    assert text.count("--hash=sha256:") >= len(packages)
    assert "://" not in text
    assert not re.search(r"lightning==2\.6\.[23]\b", text)


def test_every_table_of_results_in_a_readme_is_the_one_that_its_results_give():
    found = []
    for readme in READMES:
        for folder, table in re.findall(
            r"<!-- written by: lightning-sq report (\S+) --markdown -->\n((?:\|.*\n)+)", readme.read_text()
        ):
            assert table.rstrip("\n") == markdown_table(read_results(REPOSITORY / folder))
            found.append(folder)
    assert found == ["results/demo", "results/imagenette", "results/imagenette"]


def test_the_outcome_in_the_readme_is_that_of_the_pages():
    mnist, cifar10 = (read_study(REPOSITORY / "results" / name) for name in ("mnist", "cifar10-small"))

    def worst(study, row, key="worst_case"):
        return spread_of(study["rows"], row, key)

    def mean(study, row):
        return str(worst(study, row)).split(" ± ")[0]

    def shared(row, other):
        """MNIST's page with the two rows on the images that both were attacked on."""
        return mnist | {
            "rows": on_shared_images({name: mnist["rows"][name] for name in (row, other)}, mnist["data"]["val"])
        }

    def times(study, row):
        """(the accuracy, how many times as fast as PGD training to that), where all seconds are of one run."""
        (claim,) = (c for c in study["claims"] if f"{row}: 24 times" in c["claim"])
        assert "of one run" not in claim["verdict"]
        return re.match(r"([0-9.]+) % in the worst case: [^,]+, ([0-9.]+) times", claim["by_strongest"]).groups()

    models = read_results(REPOSITORY / "results/imagenette")["models"]
    photographs = {model["name"]: f"{100 * model['robust_accuracy']:.1f}" for model in models}

    def sooner(row):
        """(the lower accuracy of its shortest schedule, how many times as fast to that)."""
        (faster,) = (c["by_strongest"] for c in mnist["claims"] if f"{row}: 24 times" in c["claim"])
        return re.search(r"; to ([0-9.]+) %: \d+ s, ([0-9.]+) times", faster).groups()

    method, box, step = (
        times(mnist, name) for name in ("noisy natural samples", "PGD-4 in its box", "one step in its box")
    )
    short = times(mnist, "two epochs")
    (reached, faster), (reached_short, faster_short) = sooner("noisy natural samples"), sooner("two epochs")
    parts = {6: "a sixth", 7: "a seventh", 8: "an eighth", 9: "a ninth"}

    def seconds(row):
        return fmean(end["seconds"] for end in mnist["rows"][row]["seeds"])

    (one_epoch,) = (end for end in mnist["rows"]["quantizer_pgd"]["shorter"] if end["epochs"] == 1)
    doubted = ("method", "method_short", "pgd", "independent_noise", "quantizer_only")
    by_pgd, _ = STUDIES_BY_NAME["mnist"].row("pgd").published
    (by_intervals, _), (by_linear, whose) = (
        (f"{100 * accuracy:.4g}", source) for accuracy, source in STUDIES_BY_NAME["mnist"].published_proofs
    )
    assert whose.startswith("linear bounds")
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    for sentence in (
        f"| MNIST, 0.3 | {worst(mnist, 'natural')} | {worst(mnist, 'method')} | {worst(mnist, 'pgd')} (PGD-40) |",
        f"network | {worst(cifar10, 'natural')} | {worst(cifar10, 'method')} | {worst(cifar10, 'pgd')} (PGD-10) |",
        f"4/255 | {photographs['natural']} | {photographs['method']} | {photographs['fgsm_rs']} (FGSM-RS behind",
        f"independent noise keeps {worst(mnist, 'independent_noise')}, the quantizer without any noise "
        f"{worst(mnist, 'quantizer_only')})",
        f"it reaches {method[0]} in 1/{method[1]} of PGD training's time, not 1/24 ({reached} in 1/{faster} of it). By "
        f"a longer search two epochs keep {worst(mnist, 'method_short')}, and reach {short[0]} in 1/{short[1]} of it "
        f"({reached_short} in 1/{faster_short}): all by the clock, in one run.",
        f"keep {worst(mnist, 'method_short')} after {seconds('method_short'):.0f} seconds, where PGD training keeps "
        f"{worst(mnist, 'pgd')} after {seconds('pgd'):,.0f}.",
        f"prove {worst(mnist, 'interval_bound', 'certified')} of all MNIST test images, and "
        f"{worst(mnist, 'interval_bound_wide', 'certified')} in a net twice as wide "
        f"(published: {by_intervals} by interval bounds alone, {by_linear} by linear bounds)",
        f"of the same 1,000 images four PGD steps behind it (`BoxAdversarial`) keep {worst(mnist, 'quantizer_pgd')} "
        f"where PGD's forty without it keep {worst(mnist, 'pgd')}, in "
        f"{parts[round(seconds('pgd') / seconds('quantizer_pgd'))]} of the time, and no check fired.",
        f"One epoch of these steps (one seed) keeps {100 * one_epoch['worst_case']:.1f} after "
        f"{one_epoch['seconds']:.0f} seconds: to {box[0]}, the most that PGD training kept, after half of its epochs "
        f"(one seed), they are {box[1]} times as fast. A single step behind the quantizer is, on 200 images, "
        f"{step[1]} times as fast to {step[0]}; there a check fired on one seed of three.",
        f"checks fired for {', '.join(mean(mnist, name) for name in doubted)} and {photographs['fgsm_rs']}, so these",
        f"A wider net and a longer search keep {worst(mnist, 'method_wide')} of these 1,000 images (a check fired on "
        f"one seed of three). The published PGD-trained model keeps {100 * by_pgd:.1f} of all 10,000 under AutoAttack; "
        "1,000 images do not tell the two apart.",
        f"In a net twice as wide a longer search keeps {worst(mnist, 'method_wide')} of the same 1,000 images (three "
        "seeds): twelve epochs, in which a small patch of the hardest eighth of a batch gets the "
        "opposite noise 32 times over",
        f"keeps {worst(mnist, 'method_madry')} of 200 images (three seeds), which are easier: of these the small "
        f"network keeps {mean(shared('method', 'method_madry'), 'method')} and the wide one "
        f"{mean(shared('method_wide', 'method_madry'), 'method_wide')}.",
        f"With timm's ResNet-18 {worst(mnist, 'method_resnet18')} (one seed)",
    ):
        assert sentence in text, sentence

    at_the_top = ("natural", *doubted, "method_wide")
    for_all = {name: mnist["rows"][name] for name in (*at_the_top, "quantizer_pgd")}
    assert numbers_of_images(for_all) == [1000]
    for row in ("method_madry", "quantizer_pgd_1"):
        assert numbers_of_images({"": mnist["rows"][row]}) == [200]
    halfway = max((end["worst_case"], end["epochs"]) for end in mnist["rows"]["pgd"]["shorter"])
    assert halfway == (float(box[0]) / 100, 4)
    assert halfway[0] > worst(mnist, "pgd").mean
    flags = {name: [end["flags"] for end in row["seeds"]] for name, row in mnist["rows"].items()}
    assert [name for name in at_the_top if any(flags[name])] == [*doubted, "method_wide"]
    assert not any(end["flags"] for row in ("natural", "method", "pgd") for end in cifar10["rows"][row]["seeds"])
    assert not any(flags["quantizer_pgd"])
    assert {seed["epochs"] for seed in mnist["rows"]["method_wide"]["seeds"]} == {12}
    wide = yaml.safe_load((REPOSITORY / "configs/mnist/method_wide.yaml").read_text())["model"]["objective"][
        "init_args"
    ]
    assert wide["num_flips"] == 32
    wider = worst(mnist, "method_wide")
    assert 0 < wider.mean - by_pgd < 2 * error_to_published(wider, by_pgd)
    assert sum(map(bool, flags["quantizer_pgd_1"])) == 1
    for row, flag, count in (
        ("pgd", "black_box_beats_white_box", 3),
        ("method_madry", "black_box_beats_white_box", 2),
        ("method_wide", "black_box_beats_white_box", 1),
        ("method_short", "black_box_beats_white_box", 1),
        ("method_short", "plain_gradient_misses", 1),
        ("method", "plain_gradient_misses", 2),
        ("method_resnet18", "plain_gradient_misses", 1),
    ):
        assert sum(flag in fired for fired in flags[row]) == count
    slowest = re.search(r"differ by up to (\S+) times", (REPOSITORY / "results/mnist" / PAGE_FILE).read_text())
    assert f"an epoch of the same steps took up to {slowest[1]} times as long at one time as at another." in text
    assert [len(mnist["rows"][row]["seeds"]) for row in ("method_madry", "method_resnet18", "method_wide")] == [3, 1, 3]


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in (REPOSITORY / "results").glob("*/study.json")), ids=str
)
def test_the_page_of_a_study_is_the_one_that_its_numbers_give(folder):
    content = read_study(folder)
    assert (folder / PAGE_FILE).read_text() == markdown(content)
    assert content["claims"] == judge(
        STUDIES_BY_NAME[content["study"]], content["rows"], num_test=content["data"]["val"], smaller=is_smaller(content)
    )
