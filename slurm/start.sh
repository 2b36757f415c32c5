# shellcheck shell=bash
# What imagenet.sh and evaluate.sh share: how the command is started on every rank. Sourced, not run.
#
#   VENV             virtual environment of make setup            default .venv
#   CONTAINER_IMAGE  image for enroot/pyxis (srun --container-image), such as dockerd://lightning-sq or /images/lsq.sqsh
#   APPTAINER_IMAGE  image for apptainer, such as /images/lightning-sq.sif
#   MOUNTS           what to see inside the container, as SOURCE:TARGET,...   default this folder, DATA, OUTPUT, CONFIG,
#                    MODEL and the paths behind the script's name, by their own names
#   XDG_CACHE_HOME   where downloads are kept, in a container too                default ~/.cache
#                    (as in LIGHTNING_SQ_CACHE, HF_HOME, HF_HUB_CACHE and TORCH_HOME, if they are set)

case " $* " in
  *" --output"[\ =]*)
    echo "Set OUTPUT in the place of --output: the script looks there for what an earlier start of its job has left." >&2
    exit 2
    ;;
esac

# follow PATH: PATH with its first link replaced by what it says; fails where there is none
follow() {
  local path=$1 head="" part parts target
  IFS=/ read -ra parts <<< "${path#/}"
  for part in "${parts[@]}"; do
    head+=/$part
    if [[ -L $head ]]; then
      target=$(readlink "$head")
      if [[ $target != /* ]]; then target=${head%/*}/$target; fi
      realpath -ms "$target${path#"$head"}"
      return
    fi
  done
  return 1
}

# mounts_of PATHS...: as SOURCE:TARGET,... Links inside this folder are there in a container too, and those outside it are
# not: what PATH leads to is mounted by every name outside that is met on the way.
mounts_of() {
  local here path names name mounts=""
  here=$(pwd -P)
  for path in "$@"; do
    names=("$(realpath -ms "$path")")
    while ((${#names[@]} < 40)) && name=$(follow "${names[0]}"); do names=("$name" "${names[@]}"); done # or it is a ring
    for name in "${names[@]}"; do
      if [[ $name != "${names[0]}" && $name == @("$PWD"|"$here")/* ]]; then continue; fi
      if [[ $mounts, != *",${names[0]}:$name,"* ]]; then mounts+=,${names[0]}:$name; fi
    done
  done
  echo "${mounts#,}"
}

# seen_inside ARGUMENTS...: what a container is to see of the host. A file is seen by itself: its folder might hide what the
# image has there.
seen_inside() {
  local here word path paths=("$DATA" "$OUTPUT")
  here=$(pwd -P)
  for word in "$@"; do
    for path in "$word" "${word#*=}" "${word##*@}"; do # behind --option=, behind NAME=, behind timm:NAME@
      if [[ -e $path && $(realpath "$path") != "$here"/* ]]; then paths+=("$path"); fi
    done
  done
  echo "$PWD:$PWD,$(mounts_of "${paths[@]}")"
}

# on_every_rank ARGUMENTS...: `lightning-sq ARGUMENTS` as one task a GPU; --kill-on-bad-exit ends all when one dies
on_every_rank() {
  # srun goes by sbatch's --export, which may lack what is set here
  local start=(srun --export=ALL --kill-on-bad-exit=1) program=("${VENV:-.venv}/bin/lightning-sq") mounts name
  local cache=${XDG_CACHE_HOME:-$HOME/.cache} # not the image's own, in /runs, which is only there in Docker
  local caches=("$cache")
  # every process of a node shares its cores; without this each would start a thread for all of them
  export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  # since SLURM 22.05 srun does not take --cpus-per-task over from sbatch
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  # the first rank alone may refuse; the others wait for it and are killed, and srun shows the highest status of all
  export LIGHTNING_SQ_REFUSED=$PWD/.refused-$SLURM_JOB_ID
  rm -f "$LIGHTNING_SQ_REFUSED"
  if [[ -n ${CONTAINER_IMAGE:-}${APPTAINER_IMAGE:-} ]]; then
    for name in LIGHTNING_SQ_CACHE HF_HOME HF_HUB_CACHE TORCH_HOME; do
      if [[ -n ${!name:-} ]]; then caches+=("${!name}"); fi
    done
    mkdir -p "${caches[@]}" "$OUTPUT" # or they could not be mounted; pyxis mounts no home by itself, nor apptainer always
    mounts=${MOUNTS:-$(seen_inside "$@")},$(mounts_of "${caches[@]}")
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

# ran_before NOTES: whether an earlier start of the job, whose failures are counted in NOTES, has taken on OUTPUT: it has
# left the job's number there. One that died before has neither refused nor replaced an older run.
ran_before() {
  if ((${SLURM_RESTART_COUNT:-0} == 0)) && [[ ! -e $1 ]]; then return 1; fi
  [[ $(cat "$OUTPUT/.job" 2> /dev/null) == "$SLURM_JOB_ID" ]]
}

# ask_scontrol WORDS...: what scontrol answers. Its controller may be too busy, or be started again: it is asked for
# CONTROLLER_SECONDS, of the 300 between USR1 and the end.
ask_scontrol() {
  local last=$((SECONDS + ${CONTROLLER_SECONDS:-240}))
  until scontrol "$@"; do
    if ((SECONDS >= last)); then
      echo "SLURM does not answer, or refuses (see above): the job is not queued again. Submit it once more by hand," \
        "a training with --resume behind the script's name." >&2 # what is written to the other is scontrol's answer
      return 1
    fi
    sleep 10
  done
}

# again_if_it_helps STATUS NOTES PLACE [SAVED]: queue this job again, unless it is done, cancelled, or would end the same
# way. PLACE says in words how far it came; who ends at the same place twice would do so for ever, unless it fails at the
# start: what a node lacks, another has, or it has it back in a minute. Failures of before the file SAVED do not count.
again_if_it_helps() {
  local status=$1 notes=$2 place=$3 saved=${4:-} failures=0 ended_at=none pause=0 job=$SLURM_JOB_ID shown
  # the last task of an array has the number of the whole array, and scontrol would queue all of them again
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  if [[ -e ${LIGHTNING_SQ_REFUSED:-} ]]; then
    rm -f "$LIGHTNING_SQ_REFUSED"
    status=2
  fi
  if ((status == 2)) && ran_before "$notes"; then # the node has lost a disk, or a disk is full
    echo "It was refused, though the same words ran before: that counts as a failure."
    status=1
  fi
  case $status in
    0 | 2) return "$status" ;; # done; or what was typed is wrong
    75) echo "The run was asked to stop, and has saved where it was." ;;
    *)
      if [[ -r $notes ]]; then read -r failures ended_at < "$notes"; fi
      if [[ $saved -nt $notes ]]; then failures=0; fi
      # an evaluation needs no handler: it keeps what it finds as it goes
      if ((status == 128 + $(kill -l USR1) || status == 128 + $(kill -l TERM))); then
        echo "The run was ended at $place by SIG$(kill -l "$status"), its time being over or another job's: no failure."
      else
        failures=$((failures + 1))
        echo "The run failed with status $status at $place: failure $failures of this job."
        if [[ $place == "the start"* ]]; then pause=60; fi
      fi
      if ((pause == 0)) && [[ $place == "$ended_at" ]]; then
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
      if ((pause)); then sleep "$pause"; fi
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
