"""How many times as fast as PGD training: seconds to the accuracy that both reach, and how surely these are known."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_sq.evaluation.inputs import drawn
from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.reproduction import claims, measured
from lightning_sq.reproduction.studies import CIFAR10, MNIST
from tests.reproduction.builders import attacked, rows, seed, verdict

METHOD_FASTER, BOUNDS_FASTER = "noisy natural samples: ", "interval bounds: 24"


def ends(*points, key="worst_case"):
    """Schedules that end after (seconds, accuracy), the last the row's own."""
    found = [seed(0.99, curve=((seconds, 0.99),)) | {key: accuracy} for seconds, accuracy in points]
    return {"shorter": found[:-1], "seeds": found[-1:]}


def timed(**by_row):
    known = rows(**{name: [] for name in by_row})
    return {name: known[name] | more for name, more in by_row.items()}


def test_time_is_counted_to_the_worst_case_that_both_reach_and_not_to_what_a_quick_attack_says():
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.8), (500, 0.9)))
    found = verdict(METHOD_FASTER, known)
    whole = (
        "80.0 % in the worst case: 10 s of training against 250 s, 25.0 times (24.8 to 27.5 where PGD training keeps "
        "up to 1.0 points more or less, two standard errors at most)"
    )
    assert found["by_strongest"] == f"{whole}; to 60.0 %: 5 s, 41.4 times"
    assert (found["verdict"], found["holds"]) == ("reached", True)
    known["method"]["shorter"][0]["worst_case"] = 0.05  # below the shortest schedule of PGD nothing is known
    assert verdict(METHOD_FASTER, known)["by_strongest"] == whole
    known["pgd"]["shorter"][1]["seconds"] = 200
    assert verdict(METHOD_FASTER, known)["verdict"] == "not reached: 20.0 times"


def test_how_surely_a_time_is_known_follows_from_the_images_that_both_rows_share():
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.8), (500, 0.9)))
    known["method"]["seeds"][0]["verdicts"] = {"worst_case": "1" * 160 + "0" * 40}
    apart = verdict(METHOD_FASTER, known, num_images=200)["by_strongest"]
    assert "keeps up to 7.1 points more or less, two standard errors at most)" in apart
    known["pgd"]["seeds"][0]["verdicts"] = {"worst_case": "1" * 180 + "0" * 20}
    assert "keeps up to 4.3 points more or less" in verdict(METHOD_FASTER, known, num_images=200)["by_strongest"]


def test_between_schedules_of_one_seed_a_time_is_known_no_better_than_one_seed_is():
    """PGD training's line is crossed between two of them; where it is at its whole schedule, three seeds count."""
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.75), (500, 0.9)))
    known["pgd"]["seeds"] = [known["pgd"]["seeds"][0] | {"worst_case": accuracy} for accuracy in (0.88, 0.9, 0.92)]
    between = verdict(METHOD_FASTER, known, num_images=10**8)["by_strongest"]
    assert "keeps up to 4.0 points more or less" in between  # the deviation of its seeds is 2
    known["method"]["seeds"][0]["worst_case"] = 0.95
    at_its_end = verdict(METHOD_FASTER, known, num_images=10**8)["by_strongest"]
    assert at_its_end.startswith("90.0 % in the worst case")
    assert "keeps up to 2.3 points more or less" in at_its_end


def test_a_time_that_turns_on_an_image_or_on_a_doubted_schedule_is_not_told_for_sure():
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (230, 0.8), (500, 0.9)))
    many = 1_000_000
    assert verdict(METHOD_FASTER, known, num_images=many)["verdict"] == "not reached: 23.0 times"
    few = verdict(METHOD_FASTER, known, num_images=200)
    assert few["by_strongest"].endswith(
        "23.0 times (21.7 to 42.1 where PGD training keeps up to 7.1 points more or less, two standard errors at most)"
        "; to 60.0 %: 5 s, 38.6 times"
    )
    assert few["verdict"] == "not reached: 23.0 times, but 200 images do not tell 24 times for sure"
    known["pgd"]["shorter"][0]["flags"] = ["zero_gradients"]
    assert verdict(METHOD_FASTER, known, num_images=many)["verdict"].endswith(
        "; upper bounds, which checks doubt in PGD-40"
    )


def test_a_time_says_which_of_its_schedules_met_older_attacks():
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.8), (500, 0.9)))
    known["pgd"]["shorter"][0] |= {"suite_version": SUITE_VERSION - 1}
    assert verdict(METHOD_FASTER, known)["verdict"].endswith("set of attacks: PGD-40")


@pytest.mark.parametrize(("command", "said"), [(None, "not known to be of one run"), ("another", "not all of one run")])
def test_a_time_says_where_it_is_not_of_one_run(command, said):
    known = timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.8), (500, 0.9)))
    assert verdict(METHOD_FASTER, known)["verdict"] == "reached"
    known["pgd"]["shorter"][1]["command"] = command
    assert verdict(METHOD_FASTER, known)["verdict"] == f"reached; seconds {said}"


@pytest.mark.parametrize(
    ("seconds", "expected", "holds"),
    [
        (20, "not reached: at most 5.0 times", False),
        (4, "not measured: PGD training has no schedule so short", None),
    ],
)
def test_below_the_shortest_schedule_of_pgd_training_its_time_is_an_upper_bound(seconds, expected, holds):
    known = timed(method=ends((2, 0.3), (seconds, 0.6)), pgd=ends((100, 0.79), (250, 0.9)))
    found = verdict(METHOD_FASTER, known)
    told = (
        f"60.0 % in the worst case: {seconds} s of training against at most the 100 s that PGD training takes to 79.0 %"
    )
    assert (found["by_strongest"], found["verdict"], found["holds"]) == (told, expected, holds)


def test_where_the_paper_says_nothing_of_time_faster_is_enough():
    found = verdict(METHOD_FASTER, timed(method=ends((5, 0.6), (10, 0.8)), pgd=ends((100, 0.1), (250, 0.8))), CIFAR10)
    assert found["claim"].endswith("samples: faster than PGD training to the same accuracy")
    assert (found["verdict"], found["holds"]) == ("reached", True)


def test_between_two_schedules_time_is_on_the_straight_line_and_before_the_first_it_is_the_first():
    points = [(10.0, 0.2), (20.0, 0.6), (40.0, 0.5), (80.0, 0.9)]
    for accuracy, seconds in ((0.1, 10), (0.2, 10), (0.4, 15), (0.6, 20), (0.7, 60), (0.9, 80)):
        assert claims.seconds_to(points, accuracy) == pytest.approx(seconds)


def test_the_whole_schedule_counts_with_the_mean_over_its_seeds():
    row = {"shorter": [seed(0.5, curve=((9, 0.6),))], "seeds": [seed(0.8, curve=((20, 0.9),)), seed(0.6)]}
    assert measured.by_length(MNIST, "method", row) == [(9, 0.5), (20, pytest.approx(0.7))]


def test_interval_bounds_are_timed_by_what_is_proven():
    bounds = ends((25, 0.7), (50, 0.81), key="certified_of_attacked")
    found = verdict(BOUNDS_FASTER, timed(interval_bound=bounds, pgd=ends((100, 0.1), (250, 0.81), (500, 0.9))))
    assert found["by_strongest"].startswith("81.0 % proven, against PGD training under attack: 50 s of training")
    assert found["verdict"] == "not reached: 5.0 times"


def test_attacks_that_are_doubted_or_older_tell_nothing_against_what_is_proven():
    known = timed(
        interval_bound=ends((25, 0.7), (50, 0.81), key="certified_of_attacked"),
        pgd=ends((100, 0.1), (250, 0.81), (500, 0.9)),
    )
    known["interval_bound"]["seeds"][0] |= {"flags": ["zero_gradients"], "suite_version": SUITE_VERSION - 1}
    assert verdict(BOUNDS_FASTER, known)["verdict"] == "not reached: 5.0 times"
    known["pgd"]["seeds"][0] |= {"flags": ["zero_gradients"], "suite_version": SUITE_VERSION - 1}
    assert verdict(BOUNDS_FASTER, known)["verdict"] == (
        "not reached: 5.0 times; upper bounds, which checks doubt in PGD-40"
        "; by an older and weaker set of attacks: PGD-40"
    )


def test_without_shorter_schedules_time_is_not_judged():
    found = verdict(METHOD_FASTER, rows(method=[seed(0.8)], pgd=[seed(0.9)]))
    assert (found["verdict"], found["holds"]) == ("not measured: no shorter schedules of the two here", None)


def test_of_a_time_the_shorter_schedules_are_those_of_the_shared_images_too():
    shared = np.isin(drawn(10_000, 1000, 0), drawn(10_000, 200, 0))
    known = rows(
        method=[attacked(0.9, 0.9, 200, range(20)) | {"seconds": 100}],
        pgd=[attacked(0.95, 0.95, 1000, np.flatnonzero(shared)[:20]) | {"seconds": 800}],
    )
    known["method"]["shorter"] = [attacked(0.8, 0.8, 200, range(40)) | {"seconds": 50, "epochs": 1}]
    known["pgd"]["shorter"] = [attacked(0.9, 0.9, 1000, np.flatnonzero(shared)[:40]) | {"seconds": 400, "epochs": 1}]
    found = verdict(METHOD_FASTER, known, num_images=None)
    assert found["by_strongest"].startswith("90.0 % in the worst case: 100 s of training against 800 s, 8.0 times")
    assert "; to 80.0 %: 50 s, 8.0 times" in found["by_strongest"]
