"""Verdicts follow from the numbers, in words that a number on either side of the line changes."""

from __future__ import annotations

import math
from statistics import stdev

import numpy as np
import pytest

from lightning_sq.evaluation.inputs import drawn
from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.reproduction import claims, measured
from lightning_sq.reproduction.studies import CIFAR10, MNIST
from tests.reproduction.builders import attacked, judged, rows, seed, verdict

COMPARABLE, NOT_NEEDED, PROOF = "comparable to PGD", "not needed: the method is", "a proof instead"
NOT_SEARCHED = "without a search for the noise"
NOT_NEEDED_BY_MORE = [
    f"not needed: the method, {how}, is" for how in ("wider net and longer search", "Madry's network")
]


def test_comparable_by_the_papers_attacks_and_in_the_worst_case_are_told_apart():
    honest = verdict(COMPARABLE, rows(method=[seed(0.87, 0.88)], pgd=[seed(0.88, 0.9)]))
    assert (honest["verdict"], honest["holds"]) == ("reproduced", True)
    masked = verdict(COMPARABLE, rows(method=[seed(0.72, 0.89)], pgd=[seed(0.88, 0.9)]))
    assert masked["verdict"] == "reproduced by the paper's attacks, but 16.0 points less in the worst case"
    worse = verdict(COMPARABLE, rows(method=[seed(0.72, 0.8)], pgd=[seed(0.88, 0.9)]))
    assert (worse["verdict"], worse["holds"]) == ("not reproduced: 10.0 points less", False)


def test_the_method_is_judged_with_plain_noise_too():
    known = rows(method=[seed(0.88)], pgd=[seed(0.9)], independent_noise=[seed(0.7, 0.8)])
    found = verdict(NOT_SEARCHED, known)
    assert found["claim"].endswith("(soft quantization + independent noise)")
    assert (found["verdict"], found["holds"]) == ("not reproduced: 10.0 points less", False)
    assert verdict(NOT_SEARCHED, rows(method=[seed(0.88)], pgd=[seed(0.9)]))["holds"] is None


@pytest.mark.parametrize(("worst", "holds"), [(0.884, False), (0.885, True)])
def test_the_method_is_held_against_the_published_number(worst, holds):
    assert verdict(NOT_NEEDED, rows(method=[seed(worst)]))["holds"] is holds
    larger = rows(method_wide=[seed(worst)], method_madry=[seed(worst)])
    assert [verdict(claim, larger)["holds"] for claim in NOT_NEEDED_BY_MORE] == [holds, holds]
    assert verdict(NOT_NEEDED, larger)["holds"] is None


def test_without_a_published_number_it_is_our_own_row():
    known = rows(method=[seed(0.3)], pgd=[seed(0.4)])
    found = verdict(NOT_NEEDED, known, CIFAR10)
    assert found["claim"].endswith("as robust in the worst case as our PGD-trained row")
    assert found["verdict"] == "not reached: 10.0 points less than it"
    both = next(c for c in judged(CIFAR10, known, 10_000) if c["claim"] == found["claim"])
    assert both["verdict"].endswith("; one seed of soft quantization + noisy natural samples and PGD-40")
    assert verdict(NOT_NEEDED, rows(method=[seed(0.3)]), CIFAR10)["holds"] is None


def test_a_proof_is_held_against_what_pgd_training_keeps_on_the_same_images():
    bounds = seed(0.95, certified=0.94)
    more = verdict(PROOF, rows(interval_bound=[bounds], pgd=[seed(0.9)]))
    assert (more["holds"], more["verdict"][:30]) == (True, "at least as much is proven as ")
    assert more["by_strongest"].startswith("94.0 proven on all validation images; 94.0 by interval bounds")
    on_harder_images = bounds | {"certified_of_attacked": 0.8}
    less = verdict(PROOF, rows(interval_bound=[on_harder_images], pgd=[seed(0.9)]))
    assert (less["holds"], less["verdict"]) == (
        False,
        "less is proven than PGD training keeps under attack on the same images",
    )
    nearly = verdict(PROOF, rows(interval_bound=[on_harder_images], pgd=[seed(0.81)]), num_images=1000)
    assert nearly["verdict"].endswith("1,000 images do not tell them apart (standard error at most 1.8 points)")
    older = {key: value for key, value in bounds.items() if key != "certified_of_attacked"}
    for known in (rows(interval_bound=[bounds]), rows(interval_bound=[older], pgd=[seed(0.9)])):
        assert verdict(PROOF, known)["holds"] is None
    other_images = rows(interval_bound=[bounds | {"num_images": 200}], pgd=[seed(0.9) | {"num_images": 1000}])
    assert verdict(PROOF, other_images, num_images=None)["verdict"] == "nothing to compare with on the same images"
    assert verdict(PROOF, rows(interval_bound=[seed(0.95)], pgd=[seed(0.9)]))["holds"] is None


def test_a_verdict_says_that_checks_doubt_a_row():
    doubted = seed(0.89) | {"flags": ["zero_gradients"]}
    title = "soft quantization + noisy natural samples"
    for words in (COMPARABLE, NOT_NEEDED):
        found = verdict(words, rows(method=[doubted], pgd=[seed(0.88)]), num_images=10_000)
        assert found["verdict"].endswith(f"; upper bounds, which checks doubt in {title}")


def test_a_verdict_says_which_of_its_rows_met_older_attacks():
    older = seed(0.89) | {"suite_version": SUITE_VERSION - 1}
    title = "soft quantization + noisy natural samples"
    for words in (COMPARABLE, NOT_NEEDED):
        assert verdict(words, rows(method=[older], pgd=[seed(0.88)]))["verdict"].endswith(
            f"; by an older and weaker set of attacks: {title}"
        )
        assert "older" not in verdict(words, rows(method=[seed(0.89)], pgd=[seed(0.88)]))["verdict"]


def test_an_error_has_a_part_of_the_images_and_one_of_the_seeds():
    collapsed = rows(fgsm_rs=[seed(0.8), seed(0.3), seed(0.8)])
    found = verdict("82.9", collapsed)
    assert (
        "but 10,000 images and 3 seeds do not tell 3 points for sure (standard error 16.7 points)" in found["verdict"]
    )
    same = rows(fgsm_rs=[seed(0.633), seed(0.633), seed(0.633)])
    assert "do not tell" not in verdict("82.9", same)["verdict"]


def test_a_verdict_says_which_of_its_rows_were_trained_once():
    once, twice = [seed(0.9, certified=0.9)], [seed(0.9, certified=0.9), seed(0.89, certified=0.89)]
    for method, pgd, expected in (
        (twice, twice, None),
        (once, twice, "soft quantization + noisy natural samples"),
        (once, once, "soft quantization + noisy natural samples and PGD-40"),
    ):
        said = {
            c["claim"]: c["verdict"]
            for c in claims.judge(MNIST, rows(method=method, pgd=pgd), num_test=10_000, smaller=False)
        }
        comparable = next(verdict for claim, verdict in said.items() if COMPARABLE in claim)
        assert comparable.partition("; one seed of ")[2] == (expected or "")
    known = {"interval_bound": twice, "interval_bound_wide": once, "fgsm_rs": once, "pgd": twice, "method_madry": once}
    for claim in claims.judge(MNIST, rows(**known), num_test=10_000, smaller=False):
        of_one = [MNIST.row(name).title for name, seeds in known.items() if seeds is once]
        if claim["holds"] is not None:
            told = [title for title in of_one if title in claim["claim"]]
            assert ("one seed of" in claim["verdict"]) is bool(told), claim


def test_a_difference_on_the_same_images_is_known_by_what_happened_to_each_of_them():
    """Of 200 images the method loses 12 more than PGD training; which ones these are tells how sure that is."""
    pgd = seed(0.9) | {"verdicts": {"papers_attacks": "1" * 180 + "0" * 20}}
    nested, crossed = "1" * 168 + "0" * 32, "0" * 20 + "1" * 168 + "0" * 12
    told = {}
    for lost in (nested, crossed):
        method = seed(0.84) | {"verdicts": {"papers_attacks": lost}}
        told[lost] = verdict(COMPARABLE, rows(method=[method], pgd=[pgd]), num_images=200)["verdict"]
    less = "not reproduced: 6.0 points less, but 200 images do not tell 3 points for sure (standard error "
    assert told == {nested: f"{less}1.7 points)", crossed: f"{less}2.6 points)"}
    assert verdict(COMPARABLE, rows(method=[seed(0.84)], pgd=[pgd]), num_images=200)["verdict"].startswith(
        f"{less}at most 3.3 points)"
    )


def test_the_seeds_of_two_rows_are_part_of_how_well_their_difference_is_known():
    """Image by image on the average of the seeds; and on these images the rows' own means are known so well."""
    known = ([0.5, 1.0], 2, ["10", "11"]), ([0.5, 0.5], 2, ["10", "10"])
    one, other = (measured.Spread.of(*of_row) for of_row in known)
    assert (one.by_image, other.by_image) == ((1.0, 0.5), (1.0, 0.0))
    of_images, of_seeds = stdev([0.0, 0.5]) / math.sqrt(2), stdev([0.5, 1.0]) / math.sqrt(2)
    assert measured.error_of_gap(one, other) == pytest.approx(math.hypot(of_images, of_seeds))


def test_rows_that_were_attacked_on_other_numbers_of_images_are_compared_on_those_that_both_have():
    shared = np.isin(drawn(10_000, 1000, 0), drawn(10_000, 200, 0))
    assert shared.sum() == 200
    few = attacked(0.9, 0.9, 200, range(20))
    of_them = attacked(0.95, 0.95, 1000, np.flatnonzero(shared)[:50])  # broken on a quarter of the shared ones alone
    of_others = attacked(0.95, 0.95, 1000, np.flatnonzero(~shared)[:50])
    for pgd, words in ((of_them, "90.0 against 75.0"), (of_others, "90.0 against 100.0")):
        found = verdict(COMPARABLE, rows(method=[few], pgd=[pgd]), num_images=None)
        assert found["by_papers_attacks"] == found["by_strongest"] == f"{words} of PGD training"
        assert found["verdict"].endswith("; of the 200 images that both were attacked on")
        assert ("not reproduced" in found["verdict"]) == (pgd is of_others)
        swapped = verdict(COMPARABLE, rows(method=[pgd], pgd=[few]), num_images=None)
        assert swapped["by_strongest"].startswith(words.split()[-1])
    alike = verdict(COMPARABLE, rows(method=[of_others], pgd=[of_them]), num_images=None)
    assert alike["by_strongest"] == "95.0 against 95.0 of PGD training"
    assert "that both" not in alike["verdict"]
    own = verdict("our PGD-40 row", rows(method=[few], pgd=[of_others]), num_images=None)
    assert own["by_strongest"] == "95.0"


def test_each_row_has_the_errors_of_its_own_images_where_the_verdicts_are_not_known_and_the_fewer_are_named():
    known = rows(method=[seed(0.9), seed(0.9)], pgd=[seed(0.9), seed(0.9)])
    for name, number in (("method", 200), ("pgd", 1000)):
        known[name]["seeds"] = [end | {"num_images": number} for end in known[name]["seeds"]]
    found = verdict(COMPARABLE, known, num_images=None)["verdict"]
    error = 100 * math.hypot(math.sqrt(0.09 / 200), math.sqrt(0.09 / 1000))
    assert found == (
        f"reproduced, but 200 images and 2 seeds do not tell 3 points for sure (standard error at most {error:.1f} "
        "points)"
    )
    known["method"]["seeds"][0] |= {"num_images": 1000, "verdicts": {"papers_attacks": "1" * 1000}}
    known["method"]["seeds"][1] |= {
        "verdicts": {"papers_attacks": "1" * 200}
    }  # which of the 1,000 these are, nobody asks
    assert measured.spread_of(known, "method", "papers_attacks").num_images == 200
    assert not measured.is_paired(*(measured.spread_of(known, name, "papers_attacks") for name in ("method", "pgd")))


def test_a_verdict_says_where_the_images_are_too_few_to_tell_what_is_comparable():
    known = rows(method=[seed(0.88)], pgd=[seed(0.9)])
    assert verdict(COMPARABLE, known)["verdict"] == "reproduced"
    few = verdict(COMPARABLE, known, num_images=200)["verdict"]
    assert few == "reproduced, but 200 images do not tell 3 points for sure (standard error at most 3.1 points)"
    nothing = verdict(COMPARABLE, rows(method=[seed(0.0)], pgd=[seed(0.02)]), num_images=200)["verdict"]
    assert nothing.endswith("(standard error at most 1.0 points)")  # of the one that is not 0
    literature = verdict("our PGD-40 row", rows(pgd=[seed(0.87), seed(0.86)]), num_images=200)["verdict"]
    assert literature == (
        "within 3 points, or better (seed by seed 87.0, 86.0), but 200 images and 2 seeds do not tell 3 points for "
        "sure (standard error 2.5 points)"
    )


@pytest.mark.parametrize(
    ("certified", "expected", "holds"),
    [
        (0.941, "reached", True),
        (
            0.93,
            "not reached: 1.0 points less than linear bounds and ramps, arXiv 2104.00447; 1.1 more than interval",
            False,
        ),
        (0.90, "not reached: 4.0 points less than linear bounds and ramps, arXiv 2104.00447", False),
    ],
)
@pytest.mark.parametrize(("row", "title"), [("interval_bound", "bounds: as"), ("interval_bound_wide", "as wide: as")])
def test_a_proof_is_held_against_the_published_ones(certified, expected, holds, row, title):
    found = verdict(title, rows(**{row: [seed(0.95, certified=certified)]}))
    assert found["verdict"].startswith(expected)
    assert found["holds"] is holds
    assert ("; " in found["verdict"]) is (certified == 0.93)
    assert verdict(title, rows(interval_bound=[seed(0.95)]))["holds"] is None


def test_a_verdict_says_where_the_images_are_too_few_to_tell_two_models_apart():
    for worst, words, error in ((0.925, "reached", 2.3), (0.87, "not reached: 1.5 points less", 2.4)):
        close = verdict("the method is as robust in the worst", rows(method=[seed(worst)]), num_images=200)["verdict"]
        assert close.startswith(words)
        assert close.endswith(f", but 200 images do not tell them apart (standard error {error} points)")
        assert (
            "apart"
            not in verdict("the method is as robust in the", rows(method=[seed(worst)]), num_images=10_000)["verdict"]
        )


def test_what_was_not_trained_is_not_judged():
    for claim in claims.judge(MNIST, {}, num_test=10_000, smaller=False):
        assert claim["holds"] is None
        assert claim["verdict"].startswith("not measured")
    assert verdict(COMPARABLE, rows(pgd=[seed(0.9)]))["verdict"] == "not measured: method not trained here"


@pytest.mark.parametrize(("worst", "holds"), [(0.80, True), (0.798, False), (0.9, True)])
def test_our_rows_are_held_against_the_literature(worst, holds):
    found = next(
        c
        for c in claims.judge(MNIST, rows(fgsm_rs=[seed(worst)]), num_test=10_000, smaller=False)
        if "82.9" in c["claim"]
    )
    assert found["holds"] is holds


def test_a_smaller_form_is_held_against_its_own_rows_and_not_against_the_literature():
    known = rows(fgsm_rs=[seed(0.9)], method=[seed(0.9)], pgd=[seed(0.9)], interval_bound=[seed(0.9, certified=0.95)])
    for study in (MNIST, CIFAR10):
        whole, small = (claims.judge(study, known, num_test=10_000, smaller=smaller) for smaller in (False, True))
        other = {one["claim"] for one, same in zip(small, whole, strict=True) if one != same}
        literature = {one["claim"] for one in whole if " %" in one["claim"] and one["holds"] is not None}
        assert other == literature
        assert len(other) >= 2
        for one in small:
            if one["claim"] in other:
                assert (one["verdict"].split(":")[0], one["holds"]) == ("not comparable", None)


def test_a_seed_that_collapsed_is_seen_beside_the_literature():
    found = judged(MNIST, rows(fgsm_rs=[seed(0.68), seed(0.005)]), 1000)
    assert next(c for c in found if "82.9" in c["claim"])["verdict"].startswith(
        "48.6 points less (seed by seed 68.0, 0.5), but 1,000 images and 2 seeds do not tell 3 points for sure "
        "(standard error 33.8 points); three seeds of the authors' own training script"
    )


def test_seeds_have_a_mean_and_a_spread():
    assert str(measured.Spread.of([0.8, 0.9])) == "85.0 ± 7.1"
    assert str(measured.Spread.of([0.8])) == "80.0"
