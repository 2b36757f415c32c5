"""A verdict a row, kept as soon as it is known, so that an evaluation that was killed goes on where it was.

Every process writes an SQLite file of its own (one writer a file, which network file systems bear), and reads those of
all. A stage is one attack at one epsilon.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.paths import nearest_existing

LOGITS, LOGITS_OF_NOISE = "logits", "logits_of_noise"
"""The parts of an identity that another machine rounds otherwise: what a few models say of a few images."""
SAME_LOGITS = 1e-4
"""Relative to the largest: so far apart another GPU may leave them."""

TABLES = """
CREATE TABLE IF NOT EXISTS identity (value TEXT);
CREATE TABLE IF NOT EXISTS verdicts (stage TEXT, image INTEGER, broken INTEGER, proven INTEGER,
    PRIMARY KEY (stage, image));
CREATE TABLE IF NOT EXISTS batches (stage TEXT, first INTEGER, seconds REAL, notes TEXT, PRIMARY KEY (stage, first));
CREATE TABLE IF NOT EXISTS examples (stage TEXT, image INTEGER, pixels BLOB, PRIMARY KEY (stage, image));
"""


class OtherVerdictsError(InputError):
    """A folder holds verdicts that cannot be gone on with: of another evaluation, or damaged ones.

    Args:
        problem: Which, as a clause; how to mend it is said behind it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}. Delete that folder, or give another one.")
        self.problem = problem


@dataclass
class Kept:
    """What is known of one batch of a stage.

    Args:
        broken: For each image number whether the attack broke it.
        proven: The numbers of images of which it proved that nothing can.
        seconds: That it took.
        notes: What the attack had to say.
        examples: Adversarial images that are to be shown, by image number.
    """

    broken: dict[int, bool]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    examples: dict[int, Tensor] = field(default_factory=dict)
    proven: frozenset[int] = frozenset()


class VerdictStore:
    """Batches of verdicts by stage; in memory, and in a folder if one is given.

    Args:
        folder: Made on first use; None keeps nothing beyond the process.
        identity: What is evaluated and how: plain values. What was kept for another identity is refused; `LOGITS` and
            `LOGITS_OF_NOISE` in it, name -> rows of numbers, may differ by rounding.
        rank: Of this process; names its file.
    Raises: OtherVerdictsError if the folder holds verdicts of another evaluation, or a file that is none; InputError if
        a file cannot be used now.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], rank: int = 0) -> None:
        self._batches: dict[str, dict[int, Kept]] = {}
        self._connection: sqlite3.Connection | None = None
        if folder is None:
            return
        if (there := nearest_existing(folder)).is_file():
            raise InputError(f"{there} is a file, and verdicts are kept in a folder. Give another one.")
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(identity, sort_keys=True)
        try:
            for path in sorted(folder.glob("rank-*.sqlite")):
                self._read(path, text)
            self._connection = sqlite3.connect(folder / f"rank-{rank}.sqlite")
            with self._connection as connection:
                connection.executescript(TABLES)
                if connection.execute("SELECT COUNT(*) FROM identity").fetchone()[0] == 0:
                    connection.execute("INSERT INTO identity VALUES (?)", (text,))
        except sqlite3.OperationalError as error:  # locked, full, read-only: the verdicts may be whole
            raise InputError(
                f"The verdicts in {folder} cannot be used now ({error}). Start again once that is mended."
            ) from error
        except sqlite3.DatabaseError as error:
            raise OtherVerdictsError(f"The verdicts in {folder} cannot be read ({error})") from error

    def _read(self, path: Path, identity: str) -> None:
        # to be written to, because a process killed in the middle of a batch left a half that SQLite takes back first
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection, connection:
            if connection.execute("SELECT name FROM sqlite_master WHERE name='identity'").fetchone() is None:
                return  # killed before it had a table
            found = connection.execute("SELECT value FROM identity").fetchone()
            if found is None:
                return
            if other := _difference(json.loads(found[0]), json.loads(identity)):
                raise OtherVerdictsError(f"{path.parent} holds verdicts of another evaluation ({other})")
            for stage, first, seconds, notes in connection.execute("SELECT * FROM batches"):
                self._batches.setdefault(stage, {})[first] = Kept({}, seconds, tuple(json.loads(notes)))
            firsts = {stage: sorted(batches) for stage, batches in self._batches.items()}
            for stage, image, broken, proven in connection.execute("SELECT * FROM verdicts"):
                kept = self._batches[stage][_last_at_most(firsts[stage], image)]
                kept.broken[image] = bool(broken)
                kept.proven |= {image} if proven else frozenset()
            for stage, image, pixels in connection.execute("SELECT * FROM examples"):
                first = _last_at_most(firsts[stage], image)
                values = torch.from_numpy(np.frombuffer(pixels, dtype=np.float32).copy())
                self._batches[stage][first].examples[image] = values

    def find(self, stage: str, images: list[int]) -> Kept | None:
        """What is known of a batch; None if it was not finished."""
        kept = self._batches.get(stage, {}).get(images[0])
        return kept if kept is not None and kept.broken.keys() == set(images) else None

    def keep(self, stage: str, images: list[int], kept: Kept) -> None:
        """Keep a finished batch, whole or not at all."""
        self._batches.setdefault(stage, {})[images[0]] = kept
        if self._connection is None:
            return
        with self._connection as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)",
                [(stage, image, int(broken), int(image in kept.proven)) for image, broken in kept.broken.items()],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO examples VALUES (?, ?, ?)",
                [
                    (stage, image, pixels.numpy().astype(np.float32).tobytes())
                    for image, pixels in kept.examples.items()
                ],
            )
            connection.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)",
                (stage, images[0], kept.seconds, json.dumps(kept.notes)),
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _last_at_most(firsts: list[int], image: int) -> int:
    return firsts[int(np.searchsorted(firsts, image, side="right")) - 1]


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """In words; empty if there is none."""
    rounded = {LOGITS, LOGITS_OF_NOISE}
    names = [name for name in (found.keys() | wanted.keys()) - rounded if found.get(name) != wanted.get(name)]
    names = names or [name for name in rounded if not _near(found.get(name, {}), wanted.get(name, {}))]
    return f"{', '.join(sorted(names))} differ{'s' * (len(names) == 1)}" if names else ""


def _near(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Of rows of numbers, by name."""
    for name in one.keys() | other.keys():
        a, b = np.asarray(one.get(name, [])), np.asarray(other.get(name, []))
        if a.shape != b.shape or np.abs(a - b).max(initial=0) > SAME_LOGITS * np.abs(a).max(initial=0):
            return False
    return True
