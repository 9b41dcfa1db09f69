#!/usr/bin/env bash
# Runs one host's process of a run and says how it ended:
#
#   scripts/run_host.sh python -m grounded_jax.main --config=... --workdir=...
#
# Ends with the code of the process, or with 75, which asks for a start of all
# hosts anew, where jax has ended it because another process was lost.  Ctrl-C
# and SIGTERM have the run save and end with 75.  With CODE_FILE set the code is
# written there too, once it has ended.
set -u

"$@" &
child=$!
# bash has the child ignore SIGINT, so Ctrl-C comes to it as SIGTERM.
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM INT
# A signal to this script ends the wait, not the child.
told=1
while [ -n "$told" ]; do
  told=""
  wait "$child"
  code=$?
done

if [ "$code" -eq 134 ]; then # SIGABRT
  printf '%s\n' "Another process of this run was lost, so jax ended this one;\
 the same command on all hosts goes on from the last checkpoint." >&2
  code=75
fi
if [ -n "${CODE_FILE:-}" ]; then printf '%s\n' "$code" >"$CODE_FILE"; fi
exit "$code"
