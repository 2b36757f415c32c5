from __future__ import annotations

import csv
import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.evaluation import examples, results, suites
from lightning_sq.evaluation.report import write_report
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier

IMAGES = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def linear_model(quantizer: SoftQuantization | None = None) -> PixelClassifier:
    torch.manual_seed(0)
    parts = OrderedDict(backbone=nn.Sequential(nn.Flatten(), nn.Linear(108, 2)))
    if quantizer is not None:
        parts = OrderedDict(quantize=quantizer, **parts)
    return PixelClassifier(parts).eval()


def closed_form(model: PixelClassifier, labels: torch.Tensor, epsilon: float) -> float:
    """Robust accuracy of the linear model against the best possible attack."""
    weight = model.backbone[1].weight[1 - labels] - model.backbone[1].weight[labels]
    worst = (IMAGES + epsilon * weight.sign().view_as(IMAGES)).clamp(0, 1)
    return (model(worst).argmax(1) == labels).double().mean().item()


def test_every_attack_finds_the_truth_about_a_linear_model():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    labels[:4] = 1 - labels[:4]  # four clean mistakes
    epsilons = [0.005, 0.02, 0.1]
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilons)
    assert found.clean_accuracy == pytest.approx(36 / 40)
    truth = [closed_form(model, labels, epsilon) for epsilon in epsilons]
    assert 0 < truth[1] < 0.9
    for survived in found.survived.values():
        assert [found.accuracy(survived, i) for i in range(3)] == pytest.approx(truth)
    assert found.robust_accuracy == pytest.approx(truth[-1])


def test_an_attack_that_does_nothing_is_seen_to_do_nothing(monkeypatch):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    monkeypatch.setitem(suites.ATTACKS, "idle", lambda model, images, labels, seeds, epsilon: images)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.5, attacks=["idle", "pgd"])
    assert found.accuracy(found.survived["idle"], 0) == 1.0
    assert found.robust_accuracy == 0.0  # the worst case is over all attacks


def test_an_attack_that_cheats_is_caught(monkeypatch):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    monkeypatch.setitem(suites.ATTACKS, "cheat", lambda model, images, labels, seeds, epsilon: 1 - images)
    with pytest.raises(AssertionError, match="outside the ball"):
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.1, attacks=["cheat"])


def test_clean_mistakes_are_never_attacked(monkeypatch):
    model = linear_model()
    labels = 1 - model(IMAGES).argmax(1)
    seen = []
    monkeypatch.setitem(suites.ATTACKS, "watch", lambda model, images, *rest: seen.append(len(images)) or images)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.1, attacks=["watch"])
    assert found.clean_accuracy == found.robust_accuracy == 0.0
    assert seen == []


def test_bpda_sees_through_a_hard_quantizer():
    model = linear_model(SoftQuantization(16, hard=True))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.15)
    assert found.accuracy(found.survived["pgd"], 0) > 0.5
    assert found.accuracy(found.survived["bpda"], 0) < 0.1
    assert found.robust_accuracy <= found.accuracy(found.survived["bpda"], 0)


def test_the_curve_never_rises_with_epsilon():
    model = linear_model(SoftQuantization(8, 100.0))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=[0.2, 0.01, 0.05], attacks="quick")
    for survived in found.survived.values():
        curve = [found.accuracy(survived, i) for i in range(3)]
        assert curve == sorted(curve, reverse=True)


def test_batch_size_changes_no_verdict():
    model = linear_model(SoftQuantization(4, 40.0))
    labels = model(IMAGES).argmax(1)
    whole, parts = (
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.03, attacks="quick", batch_size=size) for size in (40, 7)
    )
    assert all(torch.equal(whole.survived[name], parts.survived[name]) for name in whole.survived)


def test_an_unknown_attack_is_refused_with_the_choice():
    with pytest.raises(InputError, match=r"no attack 'pgdd'.*quantized_box"):
        suites.attacks_by_name("pgd,pgdd")
    with pytest.raises(InputError, match="No attack is named"):
        suites.attacks_by_name(",")


@pytest.fixture
def evaluated(tmp_path):
    """A folder as `lightning-sq evaluate` leaves it."""
    model = linear_model(SoftQuantization(4, 200.0))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=[0.02, 0.1], attacks="quick")
    description = {"architecture": "linear", "quantizer": {"num_levels": 4, "sharpness": 200.0, "hard": False}}
    everything = results.assemble(
        [results.model_row("<b>bold</b>", "here", description, found, input_gradient_l1=1.5)],
        data={"folder": "nowhere", "num_images": 40, "files": [str(i) for i in range(40)]},
        epsilons=found.epsilons,
        attacks={name: suites.ATTACKS[name].to_dict() for name in found.survived},
        seed=0,
        device="CPU",
        versions={"lightning_sq": "0"},
        seconds=1.0,
    )
    results.write_results(tmp_path, everything)
    chosen = examples.choose([found])
    shown = examples.show(
        model, IMAGES[chosen], found.adversarial[chosen], model.quantizer, epsilon=0.1, class_names=("cat", "dog")
    )
    examples.save(tmp_path, {"<b>bold</b>": shown})
    return tmp_path, everything, found


def test_results_hold_a_verdict_for_every_image(evaluated):
    folder, everything, found = evaluated
    read = results.read_results(folder)
    assert read == json.loads(json.dumps(everything))
    (model,) = read["models"]
    for name, rows in model["verdicts"].items():
        for row in [rows] if name == "clean" else rows:
            assert set(row) <= {"0", "1"}
            assert len(row) == 40
    assert model["verdicts"]["pgd"][1].count("1") / 40 == model["curve"][1]["attacks"]["pgd"]
    worst = [min(bits) for bits in zip(*(model["verdicts"][name][1] for name in everything["attacks"]), strict=True)]
    assert worst.count("1") / 40 == model["curve"][1]["worst_case"] == pytest.approx(found.robust_accuracy)


def test_the_csv_says_what_the_json_says(evaluated):
    folder, everything, _ = evaluated
    with (folder / "results.csv").open() as stream:
        rows = {(row["attack"], row["epsilon"]): float(row["accuracy"]) for row in csv.DictReader(stream)}
    assert rows["clean", "0"] == 1.0
    for point in everything["models"][0]["curve"]:
        assert rows["worst_case", f"{point['epsilon']:.6g}"] == pytest.approx(point["worst_case"])
    assert len(rows) == 1 + 2 * 3


def test_the_report_is_one_file_with_the_numbers_and_nothing_from_outside(evaluated):
    folder, everything, _ = evaluated
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http:" not in page
    assert "https:" not in page
    assert f"{100 * everything['models'][0]['curve'][-1]['worst_case']:.1f}" in page
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_examples_keep_their_order_and_say_what_the_model_sees(evaluated):
    folder, _, found = evaluated
    shown = examples.read(folder)["<b>bold</b>"]
    assert tuple(shown.columns) == examples.ORDER
    assert all(pixels.shape == (6, 3, 6, 6) for pixels in shown.columns.values())
    broken = ~found.worst_case[-1][examples.choose([found])]
    differs = [a != c for a, c in zip(shown.captions["adversarial"], shown.captions["clean"], strict=True)]
    assert differs == broken.tolist()


def test_the_verdict_says_what_plain_pgd_would_have_claimed():
    def sentence(pgd: float, worst: float) -> str:
        point = {"epsilon": 0.3, "worst_case": worst, "attacks": {"pgd": pgd}}
        return results.verdict({"name": "net", "clean_accuracy": 0.99, "curve": [point]})

    assert sentence(0.894, 0.72) == (
        "net: at most 72.0% robust at 0.3; plain PGD alone would have said 89.4%, "
        "the quantizer hides the gradient from it."
    )
    assert "plain PGD" not in sentence(0.72, 0.72)


def test_missing_and_damaged_results_have_a_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"schema_version": 1, "mod')
    with pytest.raises(InputError, match="damaged"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="schema 99"):
        write_report(tmp_path)
