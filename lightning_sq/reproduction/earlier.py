"""What an earlier page measured, kept in the next one where its runs are no longer at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_sq.errors import InputError
from lightning_sq.reproduction.recipes import Recipe
from lightning_sq.reproduction.runs import Run
from lightning_sq.words import counted


@dataclass(frozen=True)
class Earlier:
    """The numbers of a page, found by the recipe that gave them.

    Args:
        rows: As on the page.
        choice: The same.
    """

    rows: dict[str, Any]
    choice: list[dict[str, Any]]

    @classmethod
    def of(cls, content: dict[str, Any], conditions: dict[str, Any]) -> Earlier:
        """From a page.

        Args:
            content: What `page.read_study` gives.
            conditions: Of the runs that are to stand beside it.
        Raises: InputError if they are others.
        """
        for key, ours in conditions.items():
            if (theirs := content.get(key)) != ours:
                raise InputError(
                    f"The page there says {key} {theirs}, and this run {ours}: their rows cannot stand side by side. "
                    "Give the options of that page, or leave --add out."
                )
        return cls(content["rows"], content["choice"])

    def seed(self, run: Run) -> dict[str, Any] | None:
        """What was measured of that row with that seed by that recipe; None if nothing was."""
        known = [*self._of(run, "seeds"), *self._of(run, "shorter")]
        return _by_recipe([entry for entry in known if entry["seed"] == run.seed], run)

    def trial(self, run: Run) -> dict[str, Any] | None:
        """What one of its learning rates gave on held-out images."""
        return _by_recipe(self._of(run, "tuning"), run)

    def variant(self, run: Run) -> dict[str, Any] | None:
        """What a variant of the method gave on them."""
        return _by_recipe(self.choice, run)

    def beside_runs(
        self, name: str, row: dict[str, Any], trials: Sequence[Run], at_rate: Callable[[int, float], Recipe]
    ) -> dict[str, Any]:
        """What the page says of a row besides its runs, by its present recipe, and this command did not measure.

        That is `other_rates`, which no command measures anew, and what led to the rate of `row`, if it was not tuned.

        Args:
            name: Of the row.
            row: As it is to be on the page.
            trials: Of its learning rates, as they would be run now.
            at_rate: The recipe of a seed at another learning rate.
        """
        known, found = self.rows.get(name, {}), {}
        others = [
            other
            for other in known.get("other_rates", [])
            if all(seed["recipe"] == at_rate(seed["seed"], other["rate"]).fingerprint() for seed in other["seeds"])
        ]
        if others:
            found["other_rates"] = others
        of_trials = {run.recipe.fingerprint() for run in trials}
        led_to_it = known.get("learning_rate") == row["learning_rate"] and not row["tuning"]
        if led_to_it and all(entry["recipe"] in of_trials for entry in known["tuning"]):
            found["tuning"] = known["tuning"]
        return found

    def without(self, runs: Sequence[Run], trials: Sequence[Run] = ()) -> Earlier:
        """What is left if those are measured anew: a seed or a length of a row by whatever recipe, a trial by its own.

        Args:
            runs: Of rows.
            trials: Of their learning rates.
        """
        rows = {}
        for name, row in self.rows.items():
            own = [run for run in runs if run.row.name == name]
            seeds = {run.seed for run in own if not run.is_shorter}
            lengths = {run.recipe.num_epochs for run in own if run.is_shorter}
            tried = {run.recipe.fingerprint() for run in trials if run.row.name == name}
            rows[name] = row | {
                "seeds": [entry for entry in row["seeds"] if entry["seed"] not in seeds],
                "shorter": [entry for entry in row["shorter"] if entry["epochs"] not in lengths],
                "tuning": [entry for entry in row["tuning"] if entry["recipe"] not in tried],
            }
        return replace(self, rows=rows)

    def in_words(self) -> str:
        """How much there is of each row, but for its tuning, and of the method's variants; empty if nothing is."""
        nouns = {"seeds": "seed", "shorter": "shorter schedule", "other_rates": "other learning rate"}
        found = []
        for name, row in self.rows.items():
            parts = [counted(len(row[key]), noun) for key, noun in nouns.items() if row.get(key)]
            found += [f"{name} ({', '.join(parts)})"] if parts else []
        found += [counted(len(self.choice), "variant") + " of the method"] if self.choice else []
        return "; ".join(found)

    def _of(self, run: Run, key: str) -> list[dict[str, Any]]:
        return self.rows.get(run.row.name, {}).get(key, [])


NOTHING = Earlier({}, [])


def _by_recipe(entries: Any, run: Run) -> dict[str, Any] | None:
    fingerprint = run.recipe.fingerprint()
    return next((entry for entry in entries if entry["recipe"] == fingerprint), None)
