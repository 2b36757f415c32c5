#!/usr/bin/env bash
# Attacks trained models on many nodes:   MODEL=runs/imagenet/checkpoints/last.ckpt sbatch slurm/evaluate.sh
#
# Several models, each as a task of a job array, which may run at the same time:
#   MODELS="ours=runs/imagenet/checkpoints/last.ckpt natural=runs/imagenet_natural/checkpoints/last.ckpt" \
#     sbatch --array=0-1 slurm/evaluate.sh
#
# Your cluster may want more, as sbatch options:  --account=A --partition=P --mem=0
# Set by the environment:
#   MODEL         what `lightning-sq evaluate` takes      default runs/imagenet/checkpoints/last.ckpt
#   MODELS        one for each task of a job array, in the place of MODEL
#   DATA          folder with val/                        default data/imagenet
#   EPSILON       radius of the ball                      default 4/255
#   OUTPUT        folder of the results, on a shared disk default runs/robustness (with -0, -1, ... in an array)
#   MAX_RESTARTS  after how many failures to give up      default 20 (the end of its time is none,
#                                                       nor is preemption)
#   VENV, CONTAINER_IMAGE, APPTAINER_IMAGE, MOUNTS        see slurm/start.sh
# More options for `lightning-sq evaluate` stand behind the script's name:  sbatch slurm/evaluate.sh --num-images 5000
# (among them --device cpu, for a trial without GPUs)
#
# One task a GPU; they share the images, and the verdicts are those of one process. A job that is queued again goes on with
# the verdicts it finds, after an --overwrite too.
#SBATCH --job-name=lightning-sq-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
# shellcheck source=slurm/start.sh
source slurm/start.sh || {
  echo "Submit this from the clone's folder: cd CLONE && sbatch slurm/evaluate.sh" >&2
  exit 2
}

MODEL=${MODEL:-runs/imagenet/checkpoints/last.ckpt}
DATA=${DATA:-data/imagenet}
EPSILON=${EPSILON:-4/255}
OUTPUT=${OUTPUT:-runs/robustness}
MAX_RESTARTS=${MAX_RESTARTS:-20}
if [[ -n ${MODELS:-} ]]; then
  if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "MODELS needs a job array: sbatch --array=0-1 slurm/evaluate.sh" >&2
    exit 2
  fi
  read -ra models <<< "$MODELS"
  MODEL=${models[SLURM_ARRAY_TASK_ID]:?"MODELS names fewer models than the array has tasks"}
  OUTPUT=$OUTPUT-$SLURM_ARRAY_TASK_ID
fi
mkdir -p "$OUTPUT"

trap : TERM USR1 # they are for the ranks; this script lives on to queue the job again
on_every_rank evaluate "$MODEL" --data "$DATA" --epsilon "$EPSILON" --output "$OUTPUT" --device cuda "$@"
status=$?
kept=$(cat "$OUTPUT"/verdicts/*/rank-*.sqlite 2> /dev/null | cksum) # another with every batch of verdicts
again_if_it_helps "$status" "$OUTPUT/.failures-$SLURM_JOB_ID" "checksum ${kept% *} of its verdicts"
