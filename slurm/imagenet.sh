#!/usr/bin/env bash
# Fine-tunes on many nodes:   sbatch slurm/imagenet.sh
#
# Set by sbatch options (they win over the lines below):  sbatch --nodes=8 --gpus-per-node=4 --ntasks-per-node=4 slurm/imagenet.sh
# Set by the environment:
#   CONFIG   recipe                                default configs/imagenet.yaml
#   DATA     folder with train/ and val/           default data/imagenet
#   OUTPUT   folder of the run, on a shared disk   default runs/imagenet
#   VENV     virtual environment of make setup     default .venv
# More options for `lightning-sq fit` stand behind the script's name:  sbatch slurm/imagenet.sh --trainer.max_epochs 30
#
# One task a GPU. A job that is requeued goes on from OUTPUT/checkpoints/last.ckpt.
#SBATCH --job-name=lightning-sq
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

CONFIG=${CONFIG:-configs/imagenet.yaml}
DATA=${DATA:-data/imagenet}
OUTPUT=${OUTPUT:-runs/imagenet}
VENV=${VENV:-.venv}
ACCELERATOR=${ACCELERATOR:-auto}   # cpu for a trial without GPUs

if [[ ! -x $VENV/bin/lightning-sq ]]; then
  echo "There is no $VENV/bin/lightning-sq. Run make setup, or set VENV." >&2
  exit 2
fi

# every process of a node shares its cores; without this each would start a thread for all of them
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# since SLURM 22.05 srun does not take --cpus-per-task over from sbatch
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

srun --kill-on-bad-exit=1 "$VENV/bin/lightning-sq" fit --config "$CONFIG" \
  --data.root "$DATA" --output "$OUTPUT" --resume \
  --trainer.accelerator "$ACCELERATOR" --trainer.enable_progress_bar false \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" "$@"
