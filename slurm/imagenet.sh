#!/usr/bin/env bash
# Fine-tunes on many nodes:   sbatch slurm/imagenet.sh
#
# Set by sbatch options (they win over the lines below):  sbatch --nodes=8 --gpus-per-node=4 --ntasks-per-node=4 slurm/imagenet.sh
# Your cluster may want more, as sbatch options:  --account=A --partition=P --mem=0
# Set by the environment:
#   CONFIG        recipe                                default configs/imagenet.yaml
#   DATA          folder with train/ and val/           default data/imagenet
#   OUTPUT        folder of the run, on a shared disk   default runs/ and the recipe's name
#   MAX_RESTARTS  after how many failures to give up    default 3 (being asked to stop is none; behind
#                                                       a new checkpoint they are counted anew)
#   ACCELERATOR   cpu for a trial without GPUs          default gpu
#   VENV, CONTAINER_IMAGE, APPTAINER_IMAGE, MOUNTS      see slurm/start.sh
# More options for `lightning-sq fit` stand behind the script's name:  sbatch slurm/imagenet.sh --trainer.max_epochs 30
#
# One task a GPU. A job that is queued again goes on from the last whole checkpoint in OUTPUT; a new one refuses an OUTPUT
# that holds a run, unless --resume or --overwrite stands behind the script's name.
#SBATCH --job-name=lightning-sq
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=48:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
# shellcheck source=slurm/start.sh
source slurm/start.sh || {
  echo "Submit this from the clone's folder: cd CLONE && sbatch slurm/imagenet.sh" >&2
  exit 2
}

CONFIG=${CONFIG:-configs/imagenet.yaml}
DATA=${DATA:-data/imagenet}
OUTPUT=${OUTPUT:-runs/$(basename "$CONFIG" .yaml)}
ACCELERATOR=${ACCELERATOR:-gpu} # auto would train on CPUs where the driver is missing
NOTES=$OUTPUT/.failures-$SLURM_JOB_ID

goes_on=()
if ran_before "$NOTES"; then goes_on=(--resume); fi
before=$(stat -c %y "$OUTPUT/.step" 2> /dev/null) # written anew with every step that begins

trap : TERM USR1 # they are for the ranks; this script lives on to queue the job again
on_every_rank fit --config "$CONFIG" \
  --data.root "$DATA" --trainer.accelerator "$ACCELERATOR" --trainer.enable_progress_bar false \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  "$@" --output "$OUTPUT" "${goes_on[@]}" # behind a second recipe, which has an output of its own
status=$?
step=
if [[ -r $OUTPUT/.step ]]; then read -r step _ < "$OUTPUT/.step"; fi
place="step ${step:-unknown}"
if [[ $(stat -c %y "$OUTPUT/.step" 2> /dev/null) == "$before" ]]; then place="the start${step:+ behind step $step}"; fi
again_if_it_helps "$status" "$NOTES" "$place" "$OUTPUT/checkpoints/last.ckpt"
