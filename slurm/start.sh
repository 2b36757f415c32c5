# shellcheck shell=bash
# What imagenet.sh and evaluate.sh share: how the command is started on every rank. Sourced, not run.
#
#   VENV             virtual environment of make setup            default .venv
#   CONTAINER_IMAGE  image for enroot/pyxis (srun --container-image), such as dockerd://lightning-sq or /images/lsq.sqsh
#   APPTAINER_IMAGE  image for apptainer, such as /images/lightning-sq.sif
#   MOUNTS           what to see inside the container, as SOURCE:TARGET,...   default this folder, DATA, OUTPUT, CONFIG,
#                    MODEL and the paths behind the script's name, by their own names
#   XDG_CACHE_HOME   where downloads are kept, in a container too                default ~/.cache

# seen_inside ARGUMENTS...: what a container is to see of the host, as SOURCE:TARGET,... A file is seen by itself: its folder
# might hide what the image has there.
seen_inside() {
  local here word path real named target paths=("$DATA" "$OUTPUT") mounts=$PWD:$PWD
  here=$(pwd -P)
  for word in "$@"; do
    for path in "$word" "${word#*=}" "${word##*@}"; do # behind --option=, behind NAME=, behind timm:NAME@
      if [[ -e $path && $(realpath "$path") != "$here"/* ]]; then paths+=("$path"); fi
    done
  done
  for path in "${paths[@]}"; do
    real=$(realpath -m "$path") named=$(realpath -ms "$path")
    for target in "$real" "$named"; do
      # a link outside this folder is not there inside: what it leads to is seen by the link's name too
      if [[ $target != "$real" && $target == "$PWD"/* ]]; then continue; fi
      if [[ ,$mounts, != *",$real:$target,"* ]]; then mounts+=,$real:$target; fi
    done
  done
  echo "$mounts"
}

# on_every_rank ARGUMENTS...: `lightning-sq ARGUMENTS` as one task a GPU; --kill-on-bad-exit ends all when one dies
on_every_rank() {
  # srun goes by sbatch's --export, which may lack what is set here
  local start=(srun --export=ALL --kill-on-bad-exit=1) program=("${VENV:-.venv}/bin/lightning-sq") mounts
  local cache=${XDG_CACHE_HOME:-$HOME/.cache} # not the image's own, in /runs, which is only there in Docker
  # every process of a node shares its cores; without this each would start a thread for all of them
  export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  # since SLURM 22.05 srun does not take --cpus-per-task over from sbatch
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  # the first rank alone may refuse; the others wait for it and are killed, and srun shows the highest status of all
  export LIGHTNING_SQ_REFUSED=$PWD/.refused-$SLURM_JOB_ID
  rm -f "$LIGHTNING_SQ_REFUSED"
  if [[ -n ${CONTAINER_IMAGE:-}${APPTAINER_IMAGE:-} ]]; then
    mkdir -p "$cache" "$OUTPUT" # or they could not be mounted; pyxis mounts no home by itself, nor apptainer always
    mounts=${MOUNTS:-$(seen_inside "$@")},$cache:$cache
  fi
  if [[ -n ${CONTAINER_IMAGE:-} ]]; then
    start+=(--container-image="$CONTAINER_IMAGE" --container-mounts="$mounts" --container-workdir="$PWD")
    # what the image sets, it keeps
    program=(env XDG_CACHE_HOME="$cache" lightning-sq)
  elif [[ -n ${APPTAINER_IMAGE:-} ]]; then
    program=(apptainer exec --nv --bind "$mounts" --pwd "$PWD" --env XDG_CACHE_HOME="$cache"
      "$APPTAINER_IMAGE" lightning-sq)
  elif [[ ! -x ${program[0]} ]]; then
    echo "There is no ${program[0]}. Run make setup, or set VENV, CONTAINER_IMAGE or APPTAINER_IMAGE." >&2
    return 2
  fi
  "${start[@]}" "${program[@]}" "$@"
}

# restarted NOTES: whether this is not the first start of the job, whose failures are counted in NOTES
restarted() { ((${SLURM_RESTART_COUNT:-0} > 0)) || [[ -e $1 ]]; }

# ask_scontrol WORDS...: what scontrol answers. For some seconds its controller may be too busy, or be started again.
ask_scontrol() {
  local try
  for try in 1 2 3 4 5; do
    if scontrol "$@"; then return; fi
    if ((try < 5)); then sleep 5; fi
  done
  echo "SLURM does not answer, or refuses (see above): the job is not queued again. Submit it once more by hand," \
    "a training with --resume behind the script's name." >&2 # what is written to the other is scontrol's answer
  return 1
}

# again_if_it_helps STATUS NOTES PLACE: queue this job again, unless it is done, cancelled, or would end the same way.
# PLACE says in words how far it came; who ends at the same place twice would do so for ever.
again_if_it_helps() {
  local status=$1 notes=$2 place=$3 failures=0 ended_at=none job=$SLURM_JOB_ID shown
  # the last task of an array has the number of the whole array, and scontrol would queue all of them again
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  if [[ -e ${LIGHTNING_SQ_REFUSED:-} ]]; then
    rm -f "$LIGHTNING_SQ_REFUSED"
    status=2
  fi
  if ((status == 2)) && restarted "$notes"; then # the node has lost a disk or a GPU, or a disk is full
    echo "It was refused, though the same words ran before: that counts as a failure."
    status=1
  fi
  case $status in
    0 | 2) return "$status" ;; # done; or what was typed is wrong
    75) echo "The run was asked to stop, and has saved where it was." ;;
    *)
      if [[ -r $notes ]]; then read -r failures ended_at < "$notes"; fi
      if ((status == 128 + $(kill -l USR1))); then # an evaluation needs no handler: it keeps what it finds as it goes
        echo "The run was ended at $place by SIGUSR1, as its time is nearly over: no failure."
      else
        failures=$((failures + 1))
        echo "The run failed with status $status at $place: failure $failures of this job."
      fi
      if [[ $place == "$ended_at" ]]; then
        echo "It has ended twice at $place, so it is not started again. The cause stands above."
        return "$status"
      fi
      if ((failures > ${MAX_RESTARTS:-3})); then
        echo "It is not started again: MAX_RESTARTS=${MAX_RESTARTS:-3}."
        return "$status"
      fi
      if ! { mkdir -p "$(dirname "$notes")" && echo "$failures $place" > "$notes"; }; then
        echo "It is not started again: nobody would count how often."
        return "$status"
      fi
      ;;
  esac
  shown=$(ask_scontrol show job "$job" --oneliner) || return "$status"
  if [[ $shown != *" JobState=RUNNING "* ]]; then
    echo "The job was cancelled or is queued again already."
    return "$status"
  fi
  echo "To be queued again." # said before: SLURM ends this script once it is
  ask_scontrol requeue "$job" || return "$status"
}
