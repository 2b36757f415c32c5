"""What an evaluation leaves behind says what was found."""

from __future__ import annotations

import csv
import json
import re
import shutil

import matplotlib.pyplot as plt
import pytest
import torch

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.evaluation import examples, results, robustbench, suites
from lightning_sq.evaluation.figures import examples_figure, robustness_figure
from lightning_sq.evaluation.report import write_report
from lightning_sq.evaluation.tables import markdown_table, printed_table
from lightning_sq.layers import SoftQuantization
from lightning_sq.types import format_epsilon
from tests.conftest import REPOSITORY
from tests.evaluation.models import IMAGES, linear_model

NAME = "<b>[bold]$x</b>"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder as `lightning-sq evaluate` leaves it."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = linear_model(SoftQuantization(4, 200.0))
    labels = model(IMAGES).argmax(1)
    labels[0] = 1 - labels[0]
    chosen = [1, 5, 9]
    attacks = ["quick", "own_square"]
    found = lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=[0.02, 0.1], curve=[0.05], attacks=attacks, show=chosen
    )
    description = {"architecture": "linear", "quantizer": {"num_levels": 4, "sharpness": 200.0, "hard": False}}
    everything = results.assemble(
        [results.model_row(NAME, "here", description, found, input_gradient_l1=1.5, fingerprint="0" * 64)],
        found,
        data={"folder": "no/where", "num_images": 40, "unreadable": 2, "files": [str(i) for i in range(40)]},
        attacks={name: entry.to_dict() for name, entry in suites.attacks_by_name(attacks).items()},
        seed=0,
        device="CPU",
        versions={"lightning_sq": "0"},
        seconds=1.0,
    )
    results.write_results(folder, everything)
    robustbench.write_model_infos(folder, everything)
    adversarial = torch.stack([found.examples().get(i, IMAGES[i]) for i in chosen])
    shown = examples.show(
        model,
        IMAGES[chosen],
        adversarial,
        model.quantizer,
        epsilon=0.1,
        norm="linf",
        class_names=("cat", "dog_$1$"),
    )
    examples.save(folder, {NAME: shown})
    write_report(folder)
    return folder, everything, found


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 2.0)])
def test_pictures_show_the_ball_and_the_change_in_its_norm(norm, epsilon):
    images = torch.full((2, 1, 8, 8), 0.5)
    change = torch.zeros_like(images)
    change[0, 0, 0, 0], change[0, 0, 0, 1] = 0.1, -0.05
    shown = examples.show(
        lambda x: x.flatten(1)[:, :2], images, images + change, None, epsilon=epsilon, norm=norm, class_names=("a", "b")
    ).columns
    noise = (shown["noisy"] - images).flatten(1)
    length = noise.abs().amax(1) if norm == "linf" else noise.norm(dim=1)
    assert ((0.9 * epsilon < length) & (length <= epsilon + 1e-6)).all()
    assert torch.allclose(shown["perturbation"][0, 0, 0, :3], torch.tensor([1.0, 0.25, 0.5]), atol=1e-6)
    assert torch.equal(shown["perturbation"][1], torch.full((1, 8, 8), 0.5))


def test_a_row_of_a_model_that_is_not_evaluated_any_more_goes(evaluated, tmp_path):
    (tmp_path / robustbench.FOLDER).mkdir()
    (tmp_path / robustbench.FOLDER / "before.json").write_text("{}")
    robustbench.write_model_infos(tmp_path, evaluated[1])
    assert len(list((tmp_path / robustbench.FOLDER).iterdir())) == 1
    assert not (tmp_path / robustbench.FOLDER / "before.json").exists()


def test_results_hold_a_verdict_for_every_image(evaluated):
    folder, everything, found = evaluated
    read = results.read_results(folder)
    assert read == json.loads(json.dumps(everything))
    (model,) = read["models"]
    verdicts = model["verdicts"]
    assert verdicts["clean"].count("1") == 39
    for name, rows in verdicts["attacks"].items():
        for epsilon, row in rows.items():
            outcome = found.outcomes[name][float(epsilon)]
            assert len(row) == 40
            assert row.count("-") == (~outcome.attacked).sum()
            assert row.count("0") == outcome.broken.sum()
    assert set(verdicts["attacks"]["pgd"]) == {"0.02", "0.05", "0.1"}
    assert set(verdicts["attacks"]["own_square"]) == {"0.02", "0.1"}
    assert verdicts["worst_case"]["0.1"].count("1") / 40 == model["robust_accuracy"] == model["curve"][2]["worst_case"]
    assert verdicts["certified"]["0.1"].count("1") / 40 == model["certified_accuracy"]
    assert [point["complete"] for point in model["curve"]] == [True, False, True]
    assert [point["certified"] for point in model["curve"]] == sorted(
        (point["certified"] for point in model["curve"]), reverse=True
    )


def test_every_parameter_of_an_attack_is_in_the_results(evaluated):
    box = evaluated[1]["attacks"]["quantized_box"]
    assert box["parameters"]["kind"] == "QuantizedBox"
    assert box["parameters"]["attack"]["kind"] == "PGD"
    assert box["parameters"]["attack"]["num_steps"] == 40
    assert box["parameters"]["attack"]["criterion"] == "margin"


def test_the_csv_says_what_the_json_says(evaluated):
    folder, everything, _ = evaluated
    with (folder / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    rows = {(row["attack"], row["epsilon"]): float(row["accuracy"]) for row in lines}
    all_attacks = {row["epsilon"]: row["all_attacks"] == "yes" for row in lines}
    assert all_attacks.pop("0")
    assert all_attacks == {f"{point['epsilon']:.6g}": point["complete"] for point in everything["models"][0]["curve"]}
    assert rows["clean", "0"] == 39 / 40
    for point in everything["models"][0]["curve"]:
        assert rows["worst_case", f"{point['epsilon']:.6g}"] == pytest.approx(point["worst_case"])
    assert len(rows) == 1 + 3 * 6


def test_the_report_is_one_file_with_the_verdict_first_and_nothing_from_outside(evaluated):
    folder, everything, found = evaluated
    page = (folder / "report.html").read_text()
    (model,) = everything["models"]
    assert page.count("data:image/png;base64,") == 3
    assert "http:" not in page
    assert "https:" not in page
    body = page[page.index("<h1>") :]
    assert 0 < body.index("% of the images withstood every attack at 0.1") < body.index("<h2>")
    assert f"{100 * model['robust_accuracy']:.1f}" in page
    assert "2 unreadable files" in page
    assert page.count('class="fired"') == len(found.flags)
    assert page.count('class="passed"') == len(found.diagnostics) - len(found.flags)
    assert "&lt;b&gt;[bold]$x" in page
    assert "<b>[bold]" not in page
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_a_name_that_looks_like_markup_is_printed_as_it_is(evaluated, capsys):
    from rich.console import Console

    Console(width=200).print(printed_table(evaluated[1]))
    printed = capsys.readouterr().out
    assert NAME in printed
    assert printed.count("worst case at 0.02") == 1


def test_examples_keep_their_order_and_say_what_the_model_sees(evaluated):
    folder, _, found = evaluated
    shown = examples.read(folder)[NAME]
    assert tuple(shown.columns) == examples.ORDER
    assert all(pixels.shape == (3, 3, 6, 6) for pixels in shown.columns.values())
    broken = ~found.survived()[[1, 5, 9]]
    differs = [a != c for a, c in zip(shown.captions["adversarial"], shown.captions["clean"], strict=True)]
    assert differs == broken.tolist()
    assert any(differs)


def test_examples_are_images_that_most_models_classify_right():
    right = [torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True])]
    assert examples.choose(right) == [0, 3]


def verdict(pgd=0.894, worst=0.72, certified=None, flags=(), thorough=True):
    model = {
        "name": "net",
        "num_images": 500,
        "robust_accuracy": worst,
        "certified_accuracy": certified,
        "curve": [{"attacks": {"pgd": pgd}}],
        "flags": list(flags),
        "attacks": [{}, {}],
    }
    return results.verdict(model, 0.3, thorough=thorough)


def test_the_verdict_says_what_plain_pgd_would_have_claimed():
    assert verdict() == "net: 72.0 % of the images withstood every attack at 0.3; plain PGD-40 would have said 89.4 %."
    assert verdict(pgd=0.725) == "net: 72.0 % of the images withstood every attack at 0.3."
    assert verdict(pgd=0.72, certified=0.6) == "net: 72.0 % of the images withstood every attack at 0.3, 60.0 % proven."


def test_a_flagged_model_is_never_called_robust_and_few_attacks_are_said_to_be_few():
    assert verdict(flags=["zero_gradients"]).endswith("Not to be called robust: zero gradients.")
    assert "upper bound from 2 attacks" in verdict(thorough=False)


def test_where_all_that_is_left_is_proven_the_verdict_says_that_it_is_the_truth():
    known = verdict(certified=0.72, flags=["zero_gradients"], thorough=False)
    assert known.startswith(
        "net: 72.0 % of the images withstood every attack at 0.3, 72.0 % proven; plain PGD-40 would have said 89.4 %."
    )
    assert known.endswith("Every image is proven or broken: that is the truth about them.")


def test_a_proof_that_an_attack_refutes_is_not_called_the_truth():
    for certified in (0.72, 0.8):  # the shares may be equal though the images are not
        known = verdict(certified=certified, flags=["attacks_break_what_is_proven"])
        assert known.endswith("would have said 89.4 %. Not to be called robust: attacks break what is proven.")
    assert "the truth" not in verdict(certified=0.8)
    both = verdict(certified=0.6, flags=["zero_gradients"])
    assert both.endswith("Beyond what is proven not to be called robust: zero gradients.")


def test_a_report_says_that_its_attacks_have_been_made_stronger_since(evaluated, tmp_path):
    folder, everything, _ = evaluated
    assert results.OLDER not in (folder / "report.html").read_text()
    shutil.copytree(folder, tmp_path / "older")
    results.write_results(tmp_path / "older", {k: v for k, v in everything.items() if k != "suite_version"})
    write_report(tmp_path / "older")
    assert results.OLDER in (tmp_path / "older/report.html").read_text()


def test_the_command_draws_the_report_again_or_prints_its_table(evaluated, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(evaluated[0], folder)
    drawn = [folder / "report.html", folder / "robustness.png"]
    for file in drawn:
        file.unlink()
    assert main(["report", str(folder), "--markdown"]) == 0
    assert capsys.readouterr().out == markdown_table(evaluated[1]) + "\n"
    assert not any(file.exists() for file in drawn)
    assert main(["report", str(folder)]) == 0
    assert drawn[0].read_text() == (evaluated[0] / "report.html").read_text()
    assert drawn[1].is_file()
    said = capsys.readouterr().out
    assert NAME in said
    assert said.endswith(f"{drawn[0]}\n")


def test_robustbench_rows_say_unreliable_where_a_check_fired(evaluated):
    folder, everything, found = evaluated
    (path,) = (folder / "robustbench").iterdir()
    row = json.loads(path.read_text())
    assert row["eps"] == "0.1"
    assert found.flags
    assert row["unreliable"] is True
    sound = everything["models"][0] | {"flags": []}
    assert robustbench.model_info(everything, sound)["unreliable"] is False
    assert row["autoattack_acc"] is None  # it did not run
    assert row["external"] == f"{100 * found.robust_accuracy:.2f}"


@pytest.mark.parametrize(("folder", "name"), [("sets/pets/val", "pets"), ("sets/pets", "pets"), ("val", "val")])
def test_robustbench_is_told_the_data_set_by_its_folder(evaluated, folder, name):
    everything = evaluated[1] | {"data": evaluated[1]["data"] | {"folder": folder}}
    assert robustbench.model_info(everything, everything["models"][0])["dataset"] == name


def test_robustbench_gets_what_is_left_when_the_last_stage_of_autoattack_has_run(evaluated):
    stages = ("apgd_ce", "apgd_t", "square", "fab_t")
    left = {"pgd": 0.9, "apgd_ce": 0.8, "apgd_t": 0.7, "square": 0.6, "fab_t": 0.5, "own_square": 0.4}
    everything = evaluated[1]

    def told(*ran):
        attacks = [{"attack": name, "accuracy_after": left[name]} for name in ran]
        return robustbench.model_info(everything, everything["models"][0] | {"attacks": attacks})["autoattack_acc"]

    assert told(*left) == "50.00"
    assert told(*stages[::-1]) == "80.00"
    for missing in stages:
        assert told(*(name for name in left if name != missing)) is None


def test_the_table_for_a_readme_has_a_dash_for_what_was_not_measured(evaluated):
    table = markdown_table(evaluated[1])
    assert table.count("\n") == 2
    assert "| – |" not in table
    cells = dict(zip(*(line.strip("| ").split(" | ") for line in table.splitlines()[::2]), strict=True))
    survived = evaluated[2].survived
    assert float(cells["worst case at 0.02"]) == pytest.approx(100 * survived(0.02).double().mean().item(), abs=0.06)
    assert float(cells["worst case"].strip("*")) == pytest.approx(100 * survived(0.1).double().mean().item(), abs=0.06)
    model = dict(evaluated[1]["models"][0], certified_accuracy=None)
    assert "| – |" in markdown_table(evaluated[1] | {"models": [model]})


def test_a_number_that_is_not_finite_is_null_in_the_results_and_a_dash_for_people(evaluated, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (row,) = evaluated[1]["models"]
    first, second, *others = row["diagnostics"]
    checks = [first | {"measured": float("nan")}, second | {"measured": float("inf")}, *others]
    everything = evaluated[1] | {"models": [row | {"input_gradient_l1": -float("inf"), "diagnostics": checks}]}
    results.write_results(tmp_path, everything)
    text = (tmp_path / "results.json").read_text()
    (written,) = json.loads(text, parse_constant=refuse)["models"]
    assert written == row | {
        "input_gradient_l1": None,
        "diagnostics": [first | {"measured": None}, second | {"measured": None}, *written["diagnostics"][2:]],
    }
    assert [check["measured"] for check in written["diagnostics"][2:]] == [check["measured"] for check in others]
    (tmp_path / "results.json").write_text(json.dumps(everything))  # as an earlier version wrote it
    assert results.read_results(tmp_path)["models"] == [written]
    for found in (everything, results.read_results(tmp_path)):
        assert markdown_table(found).splitlines()[-1].count("| – |") == 1
    write_report(tmp_path)
    before = (evaluated[0] / "report.html").read_text()
    assert (tmp_path / "report.html").read_text().count("<td>–</td>") == before.count("<td>–</td>") + 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"schema_version": 2, "mod', "damaged"),
        ('{"schema_version": 2}', "damaged"),
        ("[]", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"schema_version": 99}', "schema 99"),
        ('{"schema_version": 1}', "schema 1"),
    ],
)
def test_missing_and_damaged_results_have_a_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError, match="There is no"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        write_report(tmp_path)


INNER = {
    "data.folder": lambda r: r["data"].pop("folder"),
    "threat_model": lambda r: r.update(threat_model=0.3),
    "models": lambda r: r.update(models=[]),
    "models.source": lambda r: r["models"][0].pop("source"),
    "models.curve": lambda r: r["models"][0].update(curve=None),
    "models.curve.epsilon": lambda r: r["models"][0]["curve"][-1].pop("epsilon"),
}


@pytest.mark.parametrize("missing", INNER)
def test_results_without_an_inner_value_are_damaged_and_it_is_named(tmp_path, evaluated, missing):
    found = json.loads(json.dumps(evaluated[1]))
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert results.read_results(tmp_path) == found
    INNER[missing](found)
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=rf"results\.json is damaged \({re.escape(missing)} is missing\)"):
        results.read_results(tmp_path)


def test_the_command_that_makes_missing_results_can_be_typed_whatever_the_folder_is_called(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"--output '{tmp_path}/my results'.")):
        results.read_results(tmp_path / "my results")


def test_grey_examples_are_drawn_in_grey_from_black_to_white():
    shown = examples.Examples({"clean": torch.full((1, 1, 2, 2), 0.4)}, {"clean": ["seven"]})
    figure = examples_figure("a model", shown)
    drawn = figure.axes[0].images[0].get_array()
    plt.close(figure)
    assert drawn.shape == (2, 2, 3)
    assert drawn.flatten().tolist() == pytest.approx([0.4] * 12)


def test_the_picture_shows_the_worst_case_and_every_attack_in_percent():
    found = json.loads((REPOSITORY / "results/demo/results.json").read_text())
    figure = robustness_figure(found)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    plt.close(figure)
    for model in found["models"]:
        worst = [model["clean_accuracy"], *(point["worst_case"] for point in model["curve"])]
        pgd = [model["clean_accuracy"], *(point["attacks"]["pgd"] for point in model["curve"])]
        assert lines[f"{model['name']}, worst case"] == pytest.approx([100 * share for share in worst])
        assert lines[f"{model['name']}, pgd"] == pytest.approx([100 * share for share in pgd])
        assert worst[-1] < worst[0]


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0.3, "0.3"), (8 / 255, "8/255"), (1 / 255, "1/255"), (32 / 255, "32/255"), (1 / 15, "0.0667")],
)
def test_a_budget_is_written_as_people_count_it(epsilon, text):
    assert format_epsilon(epsilon) == text


def test_a_report_is_drawn_without_the_images_where_they_were_not_kept(tmp_path, capsys):
    shutil.copy(REPOSITORY / "results/demo/results.json", tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Images</h2>" not in page
    assert "How it was measured" in page
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "examples.safetensors").write_bytes(b"cut")
    assert main(["report", str(tmp_path)]) == 2
    assert "examples.safetensors is missing or damaged" in capsys.readouterr().err
