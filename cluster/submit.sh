#!/usr/bin/env bash
# Runs lipo-e-ray as a Ray job on a cluster and follows it:
#
#   export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265    # the dashboard, for example as `ray dashboard` forwards it
#   export RAY_AUTH_TOKEN_PATH=~/.ray/auth_token           # the cluster's token, readable by you alone (chmod 600)
#   cluster/submit.sh run --profile cluster --engines 4 --output /home/ray/runs/gsm8k
#   cluster/submit.sh resume /home/ray/runs/gsm8k
#
# Paths in the command are the cluster's; --output must lie where it outlives the job. The folder you start this in is
# sent along (up to 500 MiB, without what EXCLUDES names) and is the job's working folder: `--task my_task` finds a
# folder my_task in it.
# Ctrl-C stops the job so that it can go on later; closing the terminal does too. Exit status: 0 done, 1 failed, 2 bad
# input, 130 interrupted.
set -euo pipefail

# EDIT: what of the working folder stays here (a JSON list of .gitignore patterns).
EXCLUDES='[".git/", ".venv/", "runs/", "__pycache__/", "*.sqlite"]'
# EDIT: environment of the job and its engines, for example "HF_HOME": "/home/ray/runs/hub" to keep downloaded models.
# Ray logs it, so no secrets: give those to the nodes.
# After `ray job stop` a job has RAY_JOB_STOP_WAIT_TIME_S seconds to say how to go on (Ray's default, 3, is short).
ENV_VARS='{"RAY_JOB_STOP_WAIT_TIME_S": "30"}'

fail() {
  echo "submit.sh: $1" >&2
  exit 2
}

[ $# -gt 0 ] || fail "expected a lipo-e-ray command, for example: run --profile cluster --output /home/ray/runs/gsm8k"
[ -n "${RAY_API_SERVER_ADDRESS:-}" ] || fail "expected RAY_API_SERVER_ADDRESS, the URL of the cluster's dashboard"
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[ -s "$token" ] || fail "expected the cluster's token in RAY_AUTH_TOKEN_PATH, found no file $token"
case $(stat -c %a "$token" 2>/dev/null || stat -f %Lp "$token") in
  *00) ;;
  *) fail "$token can be read by others; run: chmod 600 $token" ;;
esac
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token
unset RAY_ADDRESS RAY_AUTH_TOKEN  # each would go before what was checked above

check=$(ray job list 2>&1 >/dev/null) || fail "$RAY_API_SERVER_ADDRESS: $(tail -n 1 <<<"$check")"

id=lipo-e-ray-$(date +%Y%m%d-%H%M%S)-$$
stopped=

# shellcheck disable=SC2329  # the trap calls it
stop() {
  [ -z "$stopped" ] || return 0
  stopped=yes
  echo "submit.sh: stopping the job $id" >&2
  ray job stop "$id" >/dev/null || echo "submit.sh: could not stop it; try: ray job stop $id" >&2
}

# A command in the background does not see Ctrl-C: it follows the job's log to its end.
trap stop INT TERM HUP
ray job submit --submission-id "$id" --working-dir . \
  --runtime-env-json "{\"excludes\": $EXCLUDES, \"env_vars\": $ENV_VARS}" -- lipo-e-ray "$@" &
follower=$!
status=0
wait "$follower" || status=$?
if [ -n "$stopped" ]; then
  wait "$follower" || true  # a signal ended the first wait
  echo "submit.sh: stopped; nothing that was answered is lost; go on with: submit.sh resume FOLDER (that of --output)"
  status=130
fi
exit "$status"
