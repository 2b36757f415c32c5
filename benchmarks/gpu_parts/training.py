"""How fast each objective trains from a batch in memory, and what of a step goes where: for benchmarks/gpu.py."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common.budget import Record
from common.harness import Row, seconds_of, synchronize
from gpu_parts.network import Network, compile_many
from gpu_parts.step_parts import PARTS_ROUNDS, parts_of_a_step

FIRST_GUESS = 20.0
"""Seconds for the first steps of something that is not compiled, until one is measured."""
MODES = {False: "eager", True: "compiled"}
Rates = dict[str, float]
"""Name of a way -> images/s."""


class Training:
    """Measures one network; `batch_size` is what fits, `rates` what was measured at the full size, eager and compiled.

    Args:
        record: Takes the rows.
        options: architecture, image_size, batch_size, rounds, compile_seconds, copy_bandwidth (bytes/s, or None).
        network: That is trained.
    """

    def __init__(self, record: Record, options: argparse.Namespace, network: Network) -> None:
        self.record, self.options, self.network = record, options, network
        self.rates: dict[bool, Rates] = {False: {}, True: {}}
        self.batch_size = options.batch_size
        self.compile_seconds = options.compile_seconds
        self._front_ends: dict[bool, float] = {}  # bytes/s of the method's, eager and compiled
        self.gpu = network.device.type == "cuda"

    def fit_batch(self) -> None:
        """Halve the batch until a step of the method fits."""
        while self._first_steps("method", self.batch_size, self.options.image_size, compiled=False) is None:
            if self.batch_size == 1:
                raise MemoryError("not even a batch of one image fits")
            self.record.skip(f"batch {self.batch_size}", f"out of memory: halved to {self.batch_size // 2}")
            self.batch_size //= 2

    def all_objectives(self, *, compiled: bool) -> None:
        """Every objective, in turns; images/s, the ratio to natural, the peak of memory, the parts of the step."""
        mode, size = MODES[compiled], self.options.image_size
        if compiled:
            compile_many()
        ready, took, peaks, graphs = {}, {}, {}, set()
        for name in self.network.ways:
            compiles = compiled and self.network.graph_of(name) not in graphs
            if not self.record.allows(f"{name}, {mode}", self.compile_seconds if compiles else FIRST_GUESS):
                continue
            with self.record.section(f"{name}, {mode}"):
                began = time.perf_counter()
                steps = self._first_steps(name, self.batch_size, size, compiled=compiled)
                if steps is None:
                    self.record.skip(f"{name}, {mode}", f"out of memory at batch {self.batch_size}")
                    continue
                ready[name], took[name] = steps
                first = time.perf_counter() - began
                peaks[name] = (self._peak(ready[name]), first)
                if compiles:
                    self.compile_seconds = max(first, self.compile_seconds if graphs else 0.0)
                    graphs.add(self.network.graph_of(name))
        turns = (self.options.rounds + 1 + PARTS_ROUNDS + 1) * sum(took.values())
        if not ready or not self.record.allows(f"the rounds of all objectives, {mode}", turns):
            return
        seconds = seconds_of(ready, rounds=self.options.rounds, warmup=1)
        self.rates[compiled] = {name: self.batch_size / value for name, value in seconds.items()}
        for name in ready:
            with self.record.section(f"{name}, {mode}"):
                self._rows(name, seconds, *peaks[name], compiled=compiled)

    def _rows(self, name: str, seconds: dict[str, float], peak: float | None, first: float, *, compiled: bool) -> None:
        mode, rate = MODES[compiled], self.batch_size / seconds[name]
        where = f"from memory, {self.options.architecture}, batch {self.batch_size} at {self.options.image_size} px"
        parts = parts_of_a_step(self.network, name, self.batch_size, self.options.image_size, compiled=compiled)
        detail = {"seconds of a step": seconds[name], "seconds of the first steps": first, "seconds of parts": parts}
        self.record.add(Row(f"{name}, {mode}, {where}", rate, "images/s", detail=detail))
        if name != "natural" and "natural" in seconds:
            ratio = seconds[name] / seconds["natural"]
            method = name == "method"
            to_reach, reached = ("<= 1.05", ratio <= 1.05) if method and self.gpu else ("reported", None)
            self.record.add(Row(f"{name}, {mode}: step against natural's", ratio, "times", to_reach, reached))
        if peak is not None:
            self.record.add(Row(f"{name}, {mode}: peak memory", peak / 1e9, "GB"))
        for part, taken in parts.items():
            share = 100 * taken / sum(parts.values())
            self.record.add(Row(f"{name}, {mode}: {part}'s share of the step", share, "%"))
        if name == "method":
            moved = 8 * self.batch_size * 3 * self.options.image_size**2  # bytes, from float32 to float32
            found = self._front_ends[compiled] = moved / parts["front end"]  # noise, clip, quantize, normalise
            self.record.add(Row(f"method, {mode}: front end's bandwidth, noise and all", found / 1e9, "GB/s"))

    def against_a_copy(self, *, compiled: bool) -> None:
        """The method's front end against a plain copy, which is timed behind the steps that are not compiled."""
        against = f"method, {MODES[compiled]}: front end's bandwidth against a plain copy's"
        if compiled not in self._front_ends:
            return
        if self.options.copy_bandwidth is None:
            self.record.skip(against, "the front end's section, which times a copy, was not run to its end")
        else:
            self.record.add(Row(against, 100 * self._front_ends[compiled] / self.options.copy_bandwidth, "%"))

    def sizes(self, sizes: list[int], *, compiled: bool) -> dict[int, float]:
        """Image size -> images/s of the method, for those there was time for."""
        mode, found = MODES[compiled], {}
        for size in sizes:
            what = f"method, {mode}, from memory, at {size} px"
            if size == self.options.image_size and "method" in self.rates[compiled]:
                found[size] = self.rates[compiled]["method"]
            elif self.record.allows(what, self.compile_seconds if compiled else FIRST_GUESS):
                with self.record.section(what):
                    rate = self._rate("method", self.batch_size, size, compiled=compiled)
                    if rate is None:
                        raise torch.OutOfMemoryError(f"at batch {self.batch_size}")
                    found[size] = rate
                    self.record.add(Row(f"{what}, batch {self.batch_size}", rate, "images/s"))
        return found

    def sweep(self, largest: int, smallest: int, *, compiled: bool) -> None:
        """The method at one batch size after the other, halved; then, if wished, the best of them compiled."""
        found, batch, guess = {}, largest, FIRST_GUESS
        while batch >= smallest and self.record.allows(f"sweep, batch {batch}", guess):
            what, began = f"method, eager, from memory, batch {batch}", time.perf_counter()
            with self.record.section(what):
                rate = self._rate("method", batch, self.options.image_size, compiled=False)
                if rate is None:
                    self.record.skip(what, f"out of memory: halved to {batch // 2}")
                else:
                    found[batch] = rate
                    self.record.add(Row(f"sweep: {what}", rate, "images/s"))
            batch, guess = batch // 2, time.perf_counter() - began
        if not found or not compiled:
            return
        best = max(found, key=found.get)
        what = f"method, compiled, from memory, batch {best}"
        if best != self.batch_size and self.record.allows(what, self.compile_seconds):
            with self.record.section(what):
                rate = self._rate("method", best, self.options.image_size, compiled=True)
                if rate is not None:
                    self.record.add(Row(f"sweep: {what}, the best batch", rate, "images/s"))

    def _rate(self, name: str, batch: int, size: int, *, compiled: bool) -> float | None:
        steps = self._first_steps(name, batch, size, compiled=compiled)
        if steps is None:
            return None
        return batch / seconds_of({name: steps[0]}, rounds=self.options.rounds, warmup=1)[name]

    def _first_steps(
        self, name: str, batch: int, size: int, *, compiled: bool
    ) -> tuple[Callable[[], None], float] | None:
        """(the step, seconds of its third call), or None where memory does not suffice."""
        try:
            run = self.network.trains(name, batch, size, compiled=compiled)
            began = time.perf_counter()
            for _ in range(3):  # the first compiles and tries algorithms
                began = time.perf_counter()
                run()
                synchronize()
            return run, time.perf_counter() - began
        except torch.OutOfMemoryError:
            pass  # what the error holds on to is let go before anything else is tried
        self.network.optimizer.zero_grad()
        if self.gpu:
            torch.cuda.empty_cache()
        return None

    def _peak(self, run: Callable[[], None]) -> float | None:
        if not self.gpu:
            return None
        torch.cuda.reset_peak_memory_stats()
        run()
        synchronize()
        return torch.cuda.max_memory_allocated()
