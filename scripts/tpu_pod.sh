#!/usr/bin/env bash
# Trains on a Cloud TPU slice, from a queued resource to its deletion.
#
#   scripts/tpu_pod.sh NAME [options] -- --config=experiments/stage2.py ...
#
# Creates the slice, copies this checkout to every host and installs it, runs
# the command on all hosts and shows what the first one says, starts it again
# where a run ends with 75 (preempted and saved, or a host lost), copies the
# workdir here, and deletes the slice.
#
#   --project=ID --zone=ZONE   of the slice (default: those of gcloud)
#   --type=TYPE                its accelerator (default v5litepod-64)
#   --runtime=VERSION          of its hosts (default v2-alpha-tpuv5-lite)
#   --spot                     cheaper, and taken away at any time
#   --bucket=gs://BUCKET/DIR   where checkpoints, metrics and compiled programs
#                              are kept; every host reads and writes it
#   --restarts=N               starts after the first one (default 20)
#   --keep                     do not delete the slice
#   --dry-run                  print every command, run none
#   --steps=create,install,train,copy,delete   only these, in this order
#
# The hosts' service account must be able to read and write the bucket.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' "$0"
  exit "$1"
}

fail() {
  printf '%s\n' "$*" >&2
  exit 2
}

name="" project="" zone="" bucket="" spot="" keep="" dry=""
type=v5litepod-64 runtime=v2-alpha-tpuv5-lite restarts=20
steps=create,install,train,copy,delete
while [ $# -gt 0 ]; do
  case "$1" in
    --project=*) project="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --runtime=*) runtime="${1#*=}" ;;
    --bucket=*) bucket="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --steps=*) steps="${1#*=}" ;;
    --spot) spot=1 ;;
    --keep) keep=1 ;;
    --dry-run) dry=1 ;;
    --help | -h) usage 0 ;;
    --) shift && break ;;
    -*) fail "tpu_pod.sh has no option $1; --help shows those it has." ;;
    *)
      [ -z "$name" ] || fail "What is $1? Options of the run follow --."
      name="$1"
      ;;
  esac
  shift
done
[ -n "$name" ] || fail "tpu_pod.sh needs a NAME for the slice."
[ $# -gt 0 ] || fail "tpu_pod.sh needs the run's options after --."
case "$bucket" in
  gs://?*) ;;
  *) fail "tpu_pod.sh needs --bucket=gs://BUCKET/DIR, which all hosts share." ;;
esac
case "$restarts" in
  *[!0-9]* | "") fail "--restarts=$restarts must be a number." ;;
esac
for step in ${steps//,/ }; do
  case "$step" in
    create | install | train | copy | delete) ;;
    *) fail "--steps has no $step; it has: create,install,train,copy,delete." ;;
  esac
done

place=(${project:+--project="$project"} ${zone:+--zone="$zone"})
gcloud=(gcloud compute tpus)

# Prints a command as a shell takes it, then runs it.
run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  if [ -z "$dry" ]; then "$@"; fi
}

# A command on every host; ends with the highest code that is no lost host's.
on_all() {
  run "${gcloud[@]}" tpu-vm ssh "$name" "${place[@]}" --worker=all \
    --command="$1"
}

create() {
  run "${gcloud[@]}" queued-resources create "$name" "${place[@]}" \
    --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" \
    ${spot:+--spot}
  while :; do
    state=$(run "${gcloud[@]}" queued-resources describe "$name" \
      "${place[@]}" --format='value(state.state)')
    [ -n "$dry" ] && break
    printf '%s is %s\n' "$name" "$state" >&2
    case "$state" in
      ACTIVE) break ;;
      FAILED | SUSPENDED) fail "The slice $name is $state: it was not given." ;;
    esac
    sleep 30
  done
}

install() {
  archive=$(mktemp --suffix=.tar.gz)
  run git archive --format=tar.gz --prefix=grounded_jax/ -o "$archive" HEAD
  run "${gcloud[@]}" tpu-vm scp "$archive" "$name:grounded_jax.tar.gz" \
    "${place[@]}" --worker=all
  rm -f "$archive"
  on_all "tar -xzf grounded_jax.tar.gz && cd grounded_jax &&\
 python3 -m venv .venv && . .venv/bin/activate &&\
 pip install -q -c constraints.txt -e '.[tpu,gcs]'"
}

train() {
  words=$(printf ' %q' "$@" "--workdir=$bucket/$name")
  command="cd grounded_jax && . .venv/bin/activate &&\
 export JAX_COMPILATION_CACHE_DIR=$bucket/compiled &&\
 scripts/run_host.sh python -u -m grounded_jax.main$words"
  for attempt in $(seq 0 "$restarts"); do
    code=0
    on_all "$command" || code=$?
    case "$code" in
      0) return ;;
      75 | 255) # 255: a host that ssh has lost
        printf 'The run ended with %s after start %s of %s.\n' \
          "$code" "$((attempt + 1))" "$((restarts + 1))" >&2
        if [ -n "$spot" ] || [ "$code" -eq 255 ]; then again; fi
        ;;
      *) fail "The run ended with $code, which a new start does not mend." ;;
    esac
  done
  fail "The run did not end within $((restarts + 1)) starts."
}

# A slice that was taken away is asked for once more.
again() {
  state=$(run "${gcloud[@]}" tpu-vm describe "$name" "${place[@]}" \
    --format='value(state)' || true)
  [ "$state" = READY ] && return
  delete
  create
  install
}

copy() {
  run mkdir -p "runs/$name"
  run gcloud storage rsync --recursive "$bucket/$name" "runs/$name"
}

delete() {
  run "${gcloud[@]}" queued-resources delete "$name" "${place[@]}" \
    --force --quiet
}

for step in ${steps//,/ }; do
  if [ "$step" = delete ] && [ -n "$keep" ]; then continue; fi
  "$step" "$@"
done
