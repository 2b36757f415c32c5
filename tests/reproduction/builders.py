"""Settings of a study, rows and seeds of its page, and what is claimed of them, for the tests of this folder."""

from __future__ import annotations

import re

from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.reproduction import claims
from lightning_sq.reproduction.settings import Settings
from lightning_sq.reproduction.studies import MNIST
from tests.conftest import REPOSITORY


def settings(tmp_path, **changes):
    """How a small study is run, with `changes`."""
    given = {
        "study": MNIST,
        "rows": ("natural", "pgd"),
        "form": "full",
        "num_seeds": None,
        "max_epochs": None,
        "configs": REPOSITORY / "configs",
        "data": tmp_path / "mnist",
        "tuning_data": tmp_path / "mnist-tuning",
        "runs": tmp_path / "runs",
        "attacks": "quick",
        "num_images": 10,
        "jobs": 2,
        "num_threads": 1,
        "assumed": MNIST.num_images,
    }
    return Settings(**(given | changes))


def seed(worst, papers=None, certified=None, curve=((10, 0.5), (20, 0.8))):
    """The entry of a seed on a page, all of whose numbers follow from these."""
    return {
        "seed": 0,
        "recipe": "0123456789abcdef",
        "day": "2026-01-02",
        "device": "CPU, 4 cores",
        "num_threads": 1,
        "jobs": 2,
        "num_images": 10_000,
        "command": "2026-01-02T03:04:05+00:00",
        "epochs": 2,
        "seconds": curve[-1][0],
        "curve": [{"seconds": s, "clean": 0.99, "robust": r} for s, r in curve],
        "clean": 0.99,
        "papers_attacks": worst if papers is None else papers,
        "by_attack": {"pgd": worst if papers is None else papers},
        "worst_case": worst,
        "certified": certified,
        "certified_of_attacked": certified,
        "over_epsilon": [[0.1, 0.9], [0.3, worst]],
        "suite_version": SUITE_VERSION,
        "flags": [],
        "verdict": "",
    }


def rows(**seeds):
    """Rows of a page: name=[seeds]."""
    known = {"network": "small_cnn", "options": [], "learning_rate": 0.002, "tuning": [], "shorter": []}
    return {name: {"title": MNIST.row(name).title, **known, "seeds": list(own)} for name, own in seeds.items()}


def attacked(worst, papers, number, wrong=()):
    """A seed of a row that was attacked on so many images, of which those at the places `wrong` are broken."""
    verdicts = "".join("0" if place in wrong else "1" for place in range(number))
    return seed(worst, papers) | {
        "num_images": number,
        "verdicts": dict.fromkeys(("papers_attacks", "worst_case"), verdicts),
    }


def judged(study, known, num_images):
    """The claims, had so many images been attacked in every row; None leaves them as they are."""
    for row in known.values() if num_images is not None else ():
        for end in (*row["seeds"], *row["shorter"]):
            end["num_images"] = num_images
    return claims.judge(study, known, num_test=10_000, smaller=False)


def verdict(words, known, study=MNIST, num_images=10_000):
    """The claim with those words, without what is said of rows that have one seed: that has a test of its own."""
    (found,) = (claim for claim in judged(study, known, num_images) if words in claim["claim"])
    return found | {"verdict": re.sub("; one seed of [^;]*", "", found["verdict"])}
