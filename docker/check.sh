#!/usr/bin/env bash
# Whether an image does what docker/README.md says of it:   docker/check.sh [IMAGE [OPTION OF docker run]...]
#
#   IMAGE   default lightning-sq
#   OPTION  for all containers, such as --network host
#
# Looks into the image, runs a short demo to its end, and stops a training that then goes on, all of it on CPUs. It
# prints a line a check; the first that is false ends it, with status 1 and the container's last lines. What is written
# lies in a volume that is removed in the end.
set -euo pipefail
image=${1:-lightning-sq}
name=lightning-sq-check-$$
options=(--read-only --cap-drop ALL --tmpfs /tmp --volume "$name:/runs" --env CUDA_VISIBLE_DEVICES= "${@:2}")
fit=(fit --config configs/digits.yaml --data.root /runs/digits --output /runs/fit
  --trainer.accelerator cpu --trainer.max_epochs 2)

remove_container() { docker rm --force "$name" > /dev/null 2>&1 || true; }
trap 'remove_container; docker volume rm --force "$name" > /dev/null' EXIT

# is_true WHAT COMMAND...
is_true() {
  if "${@:2}" >&2; then
    echo "true   $1"
  else
    echo "FALSE  $1"
    docker logs --tail 30 "$name" 2> /dev/null || true
    exit 1
  fi
}

# in_image COMMANDS [OPTION]...: by a shell in a container of its own
in_image() { docker run --rm "${options[@]}" "${@:2}" --entrypoint sh "$image" -c "$1"; }

# start ARGUMENTS...: lightning-sq in the background
start() {
  remove_container
  docker run --detach --name "$name" "${options[@]}" "$image" "$@" > /dev/null
}

# ends_with STATUS
ends_with() { [[ $(docker wait "$name") == "$1" ]]; }

# says TEXT
says() { docker logs "$name" 2>&1 | grep --fixed-strings "$1"; }

# comes_to STEP: wait until the training is there; false if it ends before
comes_to() {
  local step=0
  until ((step >= $1)); do
    sleep 1
    [[ $(docker inspect --format '{{.State.Running}}' "$name") == true ]] || return 1
    step=$(docker exec "$name" sed -n 's/^ *\([0-9]*\) .*/\1/p' /runs/fit/.step 2> /dev/null) || step=0
  done
}

is_true "the entry point is lightning-sq" \
  test "$(docker inspect --format '{{.Config.Entrypoint}}' "$image")" = "[lightning-sq]"
# shellcheck disable=SC2016 # the shell in the container is to see the dollar
{
  is_true "its user is not root" in_image 'test "$(id -u)" != 0'
  is_true "there is no compiler in it" \
    in_image 'for name in cc c++ gcc g++ clang tcc as ld make; do if command -v $name; then exit 1; fi; done'
  is_true "there is nothing for developers in it" \
    in_image 'for name in pytest ruff hatchling; do if command -v $name; then exit 1; fi; done'
  is_true "only /runs and /tmp can be written" in_image '! touch ~/a && ! touch /opt/a && touch /runs/a /tmp/a'
  is_true "any other user can start it and read a recipe" \
    in_image 'lightning-sq --help && cat configs/digits.yaml' --user 12345:12345
}

start demo --output /runs/demo --data /runs/digits --max-epochs 1 --num-images 4
is_true "the demo runs to its end" ends_with 0
is_true "it has left a report, numbers and a release" \
  in_image 'cd /runs/demo && ls report.html release/model.safetensors && lightning-sq report . --markdown'

start "${fit[@]}"
is_true "a training takes steps" comes_to 10
docker stop --time 120 "$name" > /dev/null
is_true "docker stop: it ends with 75" ends_with 75
is_true "docker stop: it says that it is saved" says "The run is saved at step"
is_true "docker stop: its checkpoint is there" in_image 'test -s /runs/fit/checkpoints/last.ckpt'
start "${fit[@]}" --resume
is_true "--resume: it comes to its end" ends_with 0
is_true "--resume: it went on from the checkpoint" says "Going on from /runs/fit/checkpoints/last.ckpt"
