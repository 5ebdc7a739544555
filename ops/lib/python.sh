# shellcheck shell=bash
# The virtual environment in <checkout>/.venv. Sourced by ops/install; needs CHECKOUT, say.sh and packages.sh.

VENV=$CHECKOUT/.venv

# usable_python PATH: 3.11 or newer, and able to make virtual environments.
usable_python() {
  [ -x "$1" ] && "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# find_python: path of an interpreter to build on; the distribution's own first, since every user may run it.
find_python() {
  local name candidate
  for candidate in /usr/bin/python3 /usr/bin/python3.{11..14}; do
    if usable_python "$candidate"; then printf '%s\n' "$candidate"; return 0; fi
  done
  for name in python3 python3.{14..11}; do
    candidate=$(command -v "$name") || continue
    if usable_python "$candidate"; then printf '%s\n' "$candidate"; return 0; fi
  done
  return 1
}

# python_packages: what the distribution must bring before a virtual environment can be made; nothing where it can already.
python_packages() {
  "$VENV/bin/python" -c '' 2>/dev/null || find_python >/dev/null || printf '%s\n' python3 python3-venv
}

make_venv() {
  local python
  python=$(find_python) || {
    ensure_packages python3 python3-venv # for --venv-only: otherwise they came with the rest
    python=$(find_python) || die "no Python 3.11 or newer was found" "Debian 12 and 13 have one: apt-get install python3-venv"
  }
  rm -rf "$VENV"
  step "virtual environment from $python" "$python" -m venv "$VENV" ||
    die "python -m venv failed" "its last lines are above"
}

# What the environment was made from; any difference installs again.
venv_identity() {
  { cat "$CHECKOUT/pyproject.toml"; printf '%s\n' "$CHECKOUT" "$(readlink -f "$VENV/bin/python")"; } | sha256sum | cut -d' ' -f1
}

# ensure_venv [dev]: the environment holds this checkout (editable) and what pyproject.toml asks for.
ensure_venv() {
  local extra=${1:-} identity stamp=$VENV/.hostler-stamp had=''
  "$VENV/bin/python" -c '' 2>/dev/null || make_venv
  [ ! -e "$stamp" ] || had=$(cat "$stamp")
  identity=$(venv_identity)
  # The stamp is the identity, then the extras; an environment with more than was asked for is fine.
  case "$had" in
    "$identity $extra" | "$identity dev") return 0 ;;
    *" dev") extra=dev ;;
  esac
  rm -f "$stamp"
  step "Python packages of pyproject.toml${extra:+ with [$extra]}" \
    "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-input --retries 2 \
    -e "$CHECKOUT${extra:+[$extra]}" ||
    die "pip could not install what pyproject.toml asks for" \
      "if the lines above speak of connections or time, the package registry that pip is configured with is down: run this again later"
  printf '%s %s\n' "$identity" "$extra" >"$stamp"
}
