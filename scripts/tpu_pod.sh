#!/usr/bin/env bash
# Trains on a Cloud TPU slice, from a queued resource to its deletion.
#
#   scripts/tpu_pod.sh NAME --bucket=gs://BUCKET/DIR [options] -- \
#     --config=experiments/stage2.py [any option of a run]
#
# Creates the slice, copies the commit of this checkout to every host and
# installs it, starts the run on all hosts and shows what the first one says,
# starts it again where it was preempted or has lost a host, copies the workdir
# to runs/NAME, and deletes the slice.  The run does not need this script once
# it has been started: --steps=follow,copy,delete looks after it again.
#
#   --bucket=gs://BUCKET/DIR   DIR/NAME is the workdir, DIR/compiled has compiled
#                              programs; every host reads and writes both
#   --project=ID --zone=ZONE   of the slice (default: those of gcloud)
#   --type=TYPE                its accelerator (default v5litepod-64)
#   --runtime=VERSION          of its hosts (default v2-alpha-tpuv5-lite)
#   --spot                     cheaper, and taken away at any time
#   --restarts=N               starts after the first one (default 20)
#   --keep                     do not delete the slice
#   --dry-run                  print every command, run none
#   --steps=create,install,start,follow,copy,delete   only these of them
#
# Needs gcloud, signed in, and a service account that may use the bucket.  The
# hosts, of any Ubuntu, reach the internet: uv (astral.sh) makes .venv of their
# Python 3.11 or 3.12, or of one that it downloads.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  printf '%s\n' "$*" >&2
  exit 2
}

name="" project="" zone="" bucket="" spot="" keep="" dry=""
type=v5litepod-64 runtime=v2-alpha-tpuv5-lite restarts=20
steps=create,install,start,follow,copy,delete
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
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
      exit 0
      ;;
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
bucket="${bucket%/}"
[[ "$bucket" == gs://?* ]] || fail "tpu_pod.sh needs --bucket=gs://BUCKET/DIR."
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "--restarts=$restarts is no number."
for step in ${steps//,/ }; do
  case "$step" in
    create | install | start | follow | copy | delete) ;;
    *) fail "--steps has no $step; --help shows those it has." ;;
  esac
done

for word in "$@"; do
  case "$word" in
    --workdir | --workdir=* | -workdir | -workdir=*)
      fail "--workdir is that of --bucket and NAME; leave it out."
      ;;
  esac
done

place=(${project:+--project="$project"} ${zone:+--zone="$zone"})
deletion=(gcloud compute tpus queued-resources delete "$name" "${place[@]}"
  --force --quiet)
missed="" # install or start, where the last one failed

# Prints a command as a shell takes it, and runs it unless --dry-run.
exec 3>&2 # people read it, also where 2>&1 takes what the command says
run() {
  printf '+' >&3
  printf ' %q' "$@" >&3
  printf '\n' >&3
  if [ -z "$dry" ]; then "$@"; fi
}

# A command in the checkout on one host, or on all; a dead connection ends it.
on() {
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" \
    --ssh-flag=-oServerAliveInterval=30 --command="cd grounded_jax || exit; $2"
}

create() {
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" \
    --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" \
    ${spot:+--spot} || return
  while :; do
    state=$(run gcloud compute tpus queued-resources describe "$name" \
      "${place[@]}" --format='value(state.state)' || true)
    if [ -n "$dry" ]; then break; fi
    printf '%s is %s\n' "$name" "${state:-not to be reached}" >&2
    case "$state" in
      ACTIVE) break ;;
      FAILED | SUSPENDED)
        printf '%s\n' "$name is $state: ask again, or elsewhere." >&2
        return 1
        ;;
    esac
    sleep 30
  done
}

install() {
  archive=$(mktemp --suffix=.tar.gz) &&
    run git archive --format=tar.gz --prefix=grounded_jax/ -o "$archive" HEAD &&
    run gcloud compute tpus tpu-vm scp "$archive" \
      "$name:grounded_jax.tar.gz" "${place[@]}" --worker=all &&
    rm -f "$archive" &&
    run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all \
      --command="tar -xzf grounded_jax.tar.gz" &&
    on all "curl -LsSf https://astral.sh/uv/install.sh |\
 UV_UNMANAGED_INSTALL=\$PWD/.uv sh &&\
 .uv/uv venv -q --allow-existing --python '>=3.11,<3.13' .venv &&\
 .uv/uv pip install -q -c constraints.txt -e '.[tpu,gcs]'"
}

start() {
  words=$(printf ' %q' "$@" "--workdir=$bucket/$name")
  # The process before, if it hangs, holds the chips.
  on all "if [ -f run.pid ]; then kill -9 -- -\$(cat run.pid); fi;\
 rm -f run.code; . .venv/bin/activate;\
 export JAX_COMPILATION_CACHE_DIR=$bucket/compiled CODE_FILE=run.code;\
 setsid nohup scripts/run_host.sh python -u -m grounded_jax.main$words\
 >run.log 2>&1 </dev/null & echo \$! >run.pid"
}

# The slice's state; NOT_FOUND where there is no slice, and nothing where the
# cloud is not reached.
slice() {
  local said
  if said=$(run gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
    --format='value(state)' 2>&1); then
    grep -xE '[A-Z_]+' <<<"$said" || true
  elif [[ "$said" == *NOT_FOUND*"/nodes/$name'"* ]]; then
    echo NOT_FOUND
  else
    printf '%s\n' "$said" >&2
  fi
}

# How each host's process ended: its code, or gone where it left none; running;
# lost for hosts that do not answer.
codes() {
  {
    on all "cat run.code 2>/dev/null ||\
 if kill -0 -- -\$(cat run.pid) 2>/dev/null; then echo running;\
 else cat run.code 2>/dev/null || echo gone; fi" || echo lost
  } | grep -xE '[0-9]+|running|gone|lost' || echo lost
}

follow() {
  local starts=0 asks=0 lines=+1 codes state late
  while :; do
    if [ -z "$missed" ]; then
      on 0 "tail --pid=\$(cat run.pid) -n $lines -F run.log" || true
      lines=10
    fi
    if [ -z "$dry" ]; then sleep 60; fi # the others end too
    codes=$(codes)
    if [ -n "$dry" ]; then return; fi
    printf 'The hosts say: %s\n' "$(sort <<<"$codes" | uniq -c | xargs)" >&2
    if ! grep -qvx 0 <<<"$codes"; then return; fi
    if grep -qvxE '0|75|running|gone|lost' <<<"$codes"; then
      fail "The run failed; run.log on the hosts says why."
    fi

    state=$(slice)
    if [ -z "$missed" ]; then late="running|lost"; else late=lost; fi
    case "$missed$state" in
      READY | startREADY)
        if ! grep -qxE '75|gone' <<<"$codes"; then
          if ! grep -qx lost <<<"$codes"; then missed=""; fi
          asks=0
          continue
        fi
        # Hosts answer again, and processes end, within minutes or never; where
        # a start has failed on some hosts, those of the others wait for them.
        asks=$((asks + 1))
        if [ "$asks" -le 10 ] && grep -qxE "$late" <<<"$codes"; then
          continue
        fi
        ;;
      *READY | *PREEMPTED | *TERMINATED | *SUSPENDED | *NOT_FOUND) ;;
      *) continue ;;
    esac
    if [ "$starts" -ge "$restarts" ]; then
      fail "The run did not end within $((restarts + 1)) starts."
    fi
    starts=$((starts + 1)) asks=0 lines=+1
    again "$state" "$@" || true
  done
}

# Starts the run once more, on a new slice where this one was taken away.
again() {
  if [ "$1" != READY ]; then
    delete || true
    create || return
    missed=install
  fi
  if [ "$missed" = install ]; then install || return; fi
  missed=start
  start "${@:2}" || return
  missed=""
}

copy() {
  run mkdir -p "runs/$name"
  run gcloud storage rsync --recursive "$bucket/$name" "runs/$name"
}

delete() {
  run "${deletion[@]}"
}

leave() {
  if [ "$?" -ne 0 ]; then
    printf '%s, if it was created, still exists; this deletes it:\n ' "$name"
    printf ' %q' "${deletion[@]}"
    printf '\n'
  fi >&2
}

trap leave EXIT
for step in ${steps//,/ }; do
  if [ "$step" = delete ] && [ -n "$keep" ]; then continue; fi
  "$step" "$@"
done
