# shellcheck shell=bash
# Progress and refusals of the ops scripts. Sourced, never run.

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' PLAIN=$'\e[0m'; else BOLD='' DIM='' RED='' PLAIN=''; fi

say() { printf '%s\n' "$*"; }

# die MESSAGE HINT: what is wrong, and what to do next.
die() {
  printf '%serror:%s %s\n' "$RED$BOLD" "$PLAIN" "$1" >&2
  [ -z "${2:-}" ] || printf '       %s\n' "$2" >&2
  exit 1
}

now_ms() { local t=$EPOCHREALTIME; echo $((${t/[.,]/} / 1000)); }

# step WHAT COMMAND…: run it with its output in a file; say what, and how long it took. On failure show the
# output's end and return the command's status.
step() {
  local what=$1 log began status=0
  shift
  log=$(mktemp)
  began=$(now_ms)
  [ ! -t 1 ] || printf '  … %s' "$what"
  "$@" >"$log" 2>&1 || status=$?
  [ ! -t 1 ] || printf '\r\e[K'
  if [ "$status" -eq 0 ]; then
    printf '  %-58s %s%6d ms%s\n' "$what" "$DIM" $(($(now_ms) - began)) "$PLAIN"
  else
    printf '  %s%s: failed%s after %d ms\n' "$RED" "$what" "$PLAIN" $(($(now_ms) - began))
    tail -n 15 "$log" | cut -c1-240 | sed 's/^/    | /'
  fi
  rm -f "$log"
  return "$status"
}
