"""A page is made of its JSON alone: every number of an evaluation arrives in it, and every figure shows them."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_sq.errors import InputError
from lightning_sq.evaluation.inputs import drawn
from lightning_sq.evaluation.suites import SUITE_VERSION, attacks_by_name
from lightning_sq.reproduction import claims, figures, page
from lightning_sq.reproduction.measured import spread_of
from lightning_sq.reproduction.proofs import Proof
from lightning_sq.reproduction.studies import MNIST
from tests.reproduction.builders import rows, seed


@pytest.fixture
def content():
    known = rows(natural=[seed(0.0)], method=[seed(0.8), seed(0.7)], interval_bound=[seed(0.9, certified=0.85)])
    known["natural"]["seeds"][0]["flags"] = ["gradients_vanish"]
    known["interval_bound"]["network"] = "box_cnn"
    for row in known.values():
        row["seeds"] = [end | {"num_images": 500} for end in row["seeds"]]
    return {
        "schema_version": page.SCHEMA_VERSION,
        "study": "mnist",
        "title": "MNIST",
        "epsilon": "0.3",
        "form": "full",
        "created": "",
        "versions": {},
        "data": {"train": 60_000, "val": 10_000, "whole": True},
        "attacks": list(attacks_by_name("standard")),
        "rows": known,
        "not_run": ["PGD-40"],
        "choice": [
            {"title": "as the recipe", "changes": {}, "epochs": 3, "accuracy": 0.8, "seconds": 60.4},
            {"title": "3 levels", "changes": {}, "epochs": 3, "accuracy": 0.1, "seconds": 59.0},
        ],
        "claims": claims.judge(MNIST, known, num_test=10_000, smaller=False),
    }


def test_the_page_has_a_line_for_each_row_and_claim_and_says_what_is_missing(content, tmp_path):
    page.write_page(tmp_path, content)
    text = (tmp_path / page.PAGE_FILE).read_text()
    assert page.read_study(tmp_path) == content
    assert (
        "| soft quantization + noisy natural samples | 2 | 500 | 99.0 ± 0.0 | 75.0 ± 7.1 | – | **75.0 ± 7.1** |" in text
    )
    assert "| **90.0** | 85.0 |" in text
    assert "gradients vanish" in text
    assert "60,000 training and 10,000 test images; network small_cnn; box_cnn in quantizer + interval bounds." in text
    assert "Trained on CPU, 1 thread a row, 2 rows at a time. Measured on 2026-01-02." in text
    assert "not the data set as published" not in text
    assert "not the data set as published" in page.markdown(content | {"data": content["data"] | {"whole": False}})
    assert "Not run here: PGD-40." in text
    assert "after 3 epochs" in text
    assert "standard error of the\nbest is 1.3 points" in text  # of 80 % on 1,000
    assert "| as the recipe | **80.0** | 60 |\n| 3 levels | 10.0 | 59 |" in text
    assert all(claim["claim"] in text for claim in content["claims"])
    for name in (page.CURVES_FILE, page.TRAINING_FILE):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_what_every_learning_rate_gave(content):
    assert "its recipe's; none was tuned" in page.markdown(content)
    assert "## Learning rates" not in page.markdown(content)
    tried = [
        {"rate": rate, "accuracy": accuracy, "recipe": ""}
        for rate, accuracy in ((0.001, 0.5), (0.002, 0.6), (0.004, 0.55))
    ]
    content["rows"]["method"]["tuning"] = tried
    text = page.markdown(content)
    assert (
        "| soft quantization + noisy natural samples | 50.0 | **60.0** | 55.0 | 0.002 |" in text
    )  # the largest untried
    assert "the best of 3 on held-out" in text
    assert "at the edge" not in text
    content["rows"]["method"]["learning_rate"] = 0.004
    edge = "another rate may do better still: soft quantization + noisy natural samples.\n"
    assert edge in page.markdown(content)
    assert "those of the recipes in natural samples; quantizer + interval bounds." in text
    content["rows"]["natural"]["tuning"] = [*tried, {"rate": 0.008, "accuracy": 0.1, "recipe": ""}]
    assert "the best of 3 or 4 on held-out" in page.markdown(content)


def test_the_page_shows_what_whole_schedules_gave_at_a_rate_that_was_not_taken(content):
    assert "At another rate" not in page.markdown(content)
    seeds = [seed(0.6, curve=((10, 0.5),)), seed(0.7, curve=((30, 0.5),))]
    other = {"rate": 0.032, "seeds": seeds, "shorter": [seed(0.65, curve=((5, 0.5),)) | {"epochs": 1}]}
    content["rows"]["method"] |= {"tuning": [{"rate": 0.002, "accuracy": 0.6, "recipe": ""}], "other_rates": [other]}
    title = content["rows"]["method"]["title"]
    text, taken = page.markdown(content), spread_of(content["rows"], "method", "worst_case")
    images = seeds[0]["num_images"]
    assert f"| {title} | 0.032 | 1 | 1 | {images:,} | 65.0 | – | 5 |" in text
    assert f"| {title} | 0.032 | 2 | 2 | {images:,} | 65.0 ± 7.1 | {taken} | 20 |" in text


def test_the_figure_of_training_time_has_a_second_half_where_rows_have_shorter_schedules(content):
    assert len(figures.training_figure(content).axes) == 1
    content["rows"]["method"]["shorter"] = [seed(0.6, curve=((5, 0.7),))]
    on_the_way, at_the_end = figures.training_figure(content).axes
    assert len(on_the_way.lines) == 3  # the first seed of each row
    (line,) = at_the_end.lines
    assert line.get_ydata().tolist() == pytest.approx([60.0, 75.0])
    content["rows"]["method"]["shorter"][0]["num_images"] = 500
    broken = np.isin(drawn(10_000, 1000, 0), drawn(10_000, 500, 0))  # those that the method was attacked on
    verdicts = {"worst_case": "".join("01"[not one] for one in broken)}
    content["rows"] |= rows(pgd=[seed(0.5) | {"num_images": 1000, "verdicts": verdicts}])
    content["rows"]["pgd"]["shorter"] = content["rows"]["pgd"]["seeds"]
    _, at_the_end = figures.training_figure(content).axes
    assert at_the_end.get_title() == "at the end of schedules, by the worst case of 500 test images"
    assert [line.get_ydata().tolist() for line in at_the_end.lines] == [pytest.approx([60.0, 75.0]), [0.0, 0.0]]


def test_legends_list_the_most_robust_first_and_attacks_in_training_have_a_panel_of_their_own(content):
    content["rows"] |= rows(pgd=[seed(0.78)])
    natural, attacked = figures.curves_figure(content).axes
    order = ["interval_bound", "method", "natural"]  # bounds by what is proven, others by the mean of the seeds
    titles = [content["rows"][name]["title"] for name in order]
    assert [text.get_text() for text in natural.get_legend().get_texts()] == titles
    assert {line.get_linestyle() for line in natural.lines if not line.get_label().startswith("_")} == {"-"}
    line, _ = attacked.lines  # and its hollow marks
    assert (line.get_label(), line.get_linestyle()) == ("PGD-40", "--")


def test_a_bar_at_the_largest_budget_is_the_spread_of_the_seeds_and_budgets_are_named(content):
    del content["rows"]["interval_bound"], content["rows"]["natural"]
    (axes,) = figures.curves_figure(content).axes
    (bar,) = (collection.get_segments()[0] for collection in axes.collections)
    assert [x for x, _ in bar] == [0.3, 0.3]
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * 7.07, abs=0.01)  # of 80 and 70 %
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.1", "0.3"]


def test_the_page_says_how_far_the_seconds_of_the_same_steps_differ(content):
    content["rows"]["method"]["seeds"][1]["seconds"] = 31.0
    assert "of one row,\nwhich takes the same steps in all its seeds and schedules, differ by up to 1.6 times.\n" in (
        page.markdown(content)
    )
    content["rows"]["method"]["shorter"] = [seed(0.7) | {"epochs": 1, "num_images": 500}]  # as long as two epochs
    assert "differ by up to 2.0 times.\n" in page.markdown(content)
    assert "of other trainings" not in page.markdown(content)
    content["rows"]["method"]["seeds"][0]["timed_again"] = True
    title = content["rows"]["method"]["title"]
    assert f"with\nthe same accuracies after every epoch: {title}.\n" in page.markdown(content)
    content["rows"]["method"] |= {"seeds": content["rows"]["method"]["seeds"][:1], "shorter": []}
    assert "takes the same steps" not in page.markdown(content)


def test_a_page_of_another_schema_is_refused(content, tmp_path):
    with pytest.raises(InputError, match="There is no"):
        page.read_study(tmp_path)
    page.write_page(tmp_path, copy.deepcopy(content) | {"schema_version": 0})
    with pytest.raises(InputError, match=r"has schema .*, this version reads"):
        page.read_study(tmp_path)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", "{}", "[]"])
def test_a_page_whose_numbers_are_damaged_is_refused(tmp_path, text):
    (tmp_path / page.JSON_FILE).write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        page.read_study(tmp_path)


def entry(**marker):
    """What `seed_entry` makes of an evaluation in which every number is another, and of a training of that marker."""
    model = {
        "clean_accuracy": 0.99,
        "robust_accuracy": 0.4,
        "certified_accuracy": 0.3,
        "curve": [
            {"epsilon": 0.1, "worst_case": 0.8, "attacks": {"pgd": 0.9, "bpda": 0.95}},
            {"epsilon": 0.3, "worst_case": 0.4, "attacks": {"fgsm": 0.5, "pgd": 0.7, "bpda": 0.6}},
        ],
        "attacks": [{"attack": name} for name in ("fgsm", "pgd", "bpda", "transfer_pgd", "transfer_natural")],
        "verdicts": {
            "clean": "11110",
            "certified": {"0.1": "11110", "0.3": "10000"},
            "worst_case": {"0.1": "11110", "0.3": "11000"},
            "attacks": {
                "fgsm": {"0.1": "1111-", "0.3": "0111-"},
                "pgd": {"0.1": "1111-", "0.3": "1110-"},
                "bpda": {"0.1": "1111-", "0.3": "1011-"},
            },
        },
        "flags": ["zero_gradients"],
        "verdict": "in words",
    }
    results = {"created": "2026-01-02T03:04:05+00:00", "device": "CPU, 1 thread", "suite_version": 2, "models": [model]}
    results |= {"data": {"num_images": 5}}
    curve = [{"seconds": 5.0, "clean": 0.8, "robust": 0.1}, {"seconds": 11.0, "clean": 0.9, "robust": 0.2}]
    trained = {"key": "0123456789abcdef", "num_threads": 1, "jobs": 2, "epochs": 4, "curve": curve, "command": "then"}
    proof = Proof(0.3, 0.35, 0.6, 200, 0.31, 0.5)
    return page.seed_entry(SimpleNamespace(seed=1), trained | marker, results, proof)


def test_every_number_of_an_evaluation_is_kept_as_what_it_is():
    kept = entry()
    assert kept["by_attack"] == {"fgsm": 0.5, "pgd": 0.7, "bpda": 0.6}  # at the largest budget
    assert kept["papers_attacks"] == 0.6
    assert (kept["clean"], kept["worst_case"], kept["certified"], kept["certified_of_attacked"]) == (
        *(0.99, 0.4),
        *(0.35, 0.3),
    )
    assert kept["over_epsilon"] == [[0.1, 0.8], [0.3, 0.4]]
    assert (kept["seed"], kept["day"], kept["seconds"], kept["epochs"]) == (1, "2026-01-02", 11.0, 4)
    assert (kept["num_images"], kept["command"], kept["device"]) == (5, "then", "CPU, 1 thread")
    assert entry(device="NVIDIA H200")["device"] == "NVIDIA H200"
    assert (kept["flags"], kept["verdict"], kept["transfers"]) == (["zero_gradients"], "in words", ["natural", "pgd"])
    assert (kept["proof"]["proven"], kept["proof"]["wrong_by_boxes"]) == (0.35, 0.5)
    assert kept["verdicts"] == {"papers_attacks": "10110", "worst_case": "11000", "certified_of_attacked": "10000"}


def test_the_page_names_rows_that_were_judged_by_weaker_attacks_or_never_saw_those_of_other_nets(content):
    older = "By an older and weaker set of attacks and checks, so that numbers may be too good: "
    for row in content["rows"].values():
        row["seeds"] = [end | {"suite_version": SUITE_VERSION - 1} for end in row["seeds"]]
    assert f"\n{older}all rows.\n" in page.markdown(content)
    assert "Adversarial images of" not in page.markdown(content)
    present = {"suite_version": SUITE_VERSION, "transfers": ["natural"]}
    for row in content["rows"].values():
        row["seeds"] = [end | present for end in row["seeds"]]
    assert older not in page.markdown(content)
    assert (
        "\nAdversarial images made on the nets of these rows were tried on all others too: natural samples.\n"
        in page.markdown(content)
    )
    del content["rows"]["method"]["seeds"][1]["suite_version"]
    content["rows"]["method"]["seeds"][1]["transfers"] = []
    title = content["rows"]["method"]["title"]
    assert f"\n{older}{title}.\n" in page.markdown(content)
    assert f"were tried on all others too: natural samples, except, in whole or in part, {title}.\n" in page.markdown(
        content
    )


@pytest.mark.parametrize(
    ("form", "attacks", "command"),
    [
        ("full", "standard", "mnist --num-images 500"),
        ("quick", "quick", "mnist --quick --num-images 500"),
        ("small", "standard", "mnist --small --num-images 500"),
        ("small", "quick", "mnist --small --attacks quick --num-images 500"),
        ("quick", "pgd,pgd:num_steps=7", "mnist --quick --attacks pgd,pgd:num_steps=7 --num-images 500"),
    ],
)
def test_the_page_says_the_command_that_makes_it(content, form, attacks, command):
    more = {"form": form, "attacks": list(attacks_by_name(attacks))}
    assert f"`lightning-sq reproduce {command}`" in page.markdown(content | more)


def test_a_page_says_which_rows_were_attacked_on_more_images_and_how_well_each_number_tells(content):
    text, (axes,) = page.markdown(content), figures.curves_figure(content).axes
    assert "epsilon 0.3; attacks on 500 test images\n" in text
    assert "\nOn so many images the standard error of 90 % or 10 % is 1.3 points, that of 50 % 2.2.\n" in text
    assert axes.get_title() == "MNIST, 500 test images, natural samples alone"
    for end in content["rows"]["method"]["seeds"]:
        assert f"| {content['rows']['method']['title']} | 2 | 500 |" in text
        end["num_images"] = 2000
    assert f"| {content['rows']['method']['title']} | 2 | 2,000 |" in page.markdown(content)
    text, (axes,) = page.markdown(content), figures.curves_figure(content).axes
    assert "attacks on 500 test images, 2,000 in soft quantization + noisy natural samples\n" in text
    assert (
        "\nOn 500 images the standard error of 90 % or 10 % is 1.3 points, that of 50 % 2.2; on 2,000 0.7 and 1.1.\n"
        in text
    )
    assert (
        "`lightning-sq reproduce mnist --num-images 500` and `lightning-sq reproduce mnist --add --num-images 2000`"
        in text
    )
    assert axes.get_title() == "MNIST, 500 to 2,000 test images, natural samples alone"


def test_a_line_goes_from_clean_to_the_largest_budget_and_is_hollow_between(content):
    del content["rows"]["interval_bound"], content["rows"]["natural"]
    (axes,) = figures.curves_figure(content).axes
    whole, between = axes.lines
    assert whole.get_xdata().tolist() == [0.0, 0.1, 0.3]
    assert whole.get_ydata().tolist() == pytest.approx([99.0, 90.0, 75.0])
    assert (between.get_xdata().tolist(), between.get_markerfacecolor()) == ([0.1], "white")
    assert between.get_ydata().tolist() == pytest.approx([90.0])
