"""The batch scripts with stubs in the place of SLURM."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY

JOB = {
    "HOME": "/home/me",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "3",
}
NOTES_WORDS = 'printf "%s\\n" "$@" > "$STUBS/$(basename "$0").words"\n'
SCONTROL = """
echo "$*" >> "$STUBS/asked"
if [[ $1 == "${DEAF:-}" ]] || (($(wc -l < "$STUBS/asked") <= ${SILENT:-0})); then
  echo "Unable to contact slurm controller" >&2
  exit 1
fi
if [[ $1 == show ]]; then echo "JobId=7 JobState=$STATE Restarts=0"; fi
"""
SRUN = ("--export=ALL", "--kill-on-bad-exit=1")


class Scripts:
    """Runs lines of bash in the repository, with `srun`, `scontrol` and `sleep` that only note what they are told.

    The first $SILENT questions to `scontrol` are not answered, and none that begins with $DEAF.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stubs = folder, folder / "stubs"
        self.output = folder / "run"
        self.place = "step unknown"
        self.srun()
        self._program(self.stubs / "scontrol", SCONTROL)
        self._program(self.stubs / "sleep", 'echo "sleep $*" >> "$STUBS/slept"\n')
        self.program = self._program(folder / "venv/bin/lightning-sq", NOTES_WORDS)

    @staticmethod
    def _program(path: Path, text: str) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
        return str(path)

    def srun(self, does: str = "") -> None:
        """An `srun` that ends with $STATUS, once it has done what its ranks would."""
        threads = 'echo "$OMP_NUM_THREADS $SRUN_CPUS_PER_TASK" > "$STUBS/threads"\n'
        self._program(self.stubs / "srun", f"{NOTES_WORDS}{threads}{does}exit ${{STATUS:-0}}\n")

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.stubs / "srun.words").unlink(missing_ok=True)  # of a run before
        values = {"PATH": f"{self.stubs}:{os.environ['PATH']}", "STUBS": str(self.stubs), "STATE": "RUNNING"} | JOB
        values |= {"VENV": str(self.folder / "venv"), "DATA": "/data/few", "OUTPUT": str(self.output)} | environment
        return subprocess.run(
            ["bash", *words], capture_output=True, text=True, env=values, cwd=REPOSITORY, check=False, timeout=60
        )

    def container(self) -> dict[str, str]:
        """The environment in which a container is started."""
        return {"CONTAINER_IMAGE": "image", "XDG_CACHE_HOME": str(self.folder / "cache")}

    def started(self) -> list[str]:
        """The words of `srun`."""
        return (self.stubs / "srun.words").read_text().splitlines()

    def asked(self) -> list[str]:
        """What `scontrol` was asked, in order."""
        file = self.stubs / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def again(self, status: int, **environment: str) -> tuple[int, str]:
        """(status, words) of `again_if_it_helps` after a command that ended with `status`."""
        call = 'set -uo pipefail; source slurm/start.sh; again_if_it_helps "$@"'
        done = self.run("-c", call, "_", str(status), str(self.output / ".failures-7"), self.place, **environment)
        return done.returncode, done.stderr + done.stdout

    def take_on(self, job: str) -> None:
        """What the first rank of a start leaves in OUTPUT."""
        self.output.mkdir(exist_ok=True)
        (self.output / ".job").write_text(f"{job}\n")

    def at_step(self, step: int) -> None:
        self.place = f"step {step}"
        self.output.mkdir(exist_ok=True)
        (self.output / ".step").write_text(f"{step:>12} {3.5:>12.1f}\n")


def fit_words(output: Path, *words: str) -> list[str]:
    return [
        *("fit", "--config", "configs/imagenet.yaml", "--data.root", "/data/few"),
        *("--trainer.accelerator", "gpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.num_nodes", "2", "--trainer.devices", "4", *words, "--output", str(output)),
    ]
