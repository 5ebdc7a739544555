# shellcheck shell=bash
# The compiled programs hostler-init, hostler-launch and hostler-enter, in <checkout>/.tools/libexec. Sourced by ops/install.

LIBEXEC=$CHECKOUT/.tools/libexec

native_sources() { find "$CHECKOUT/platform/host/native" -type f ! -name '*.pyc' -print0 2>/dev/null | sort -z; }

native_identity() { native_sources | xargs -0r sha256sum | sha256sum | cut -d' ' -f1; }

ensure_native() {
  local stamp=$LIBEXEC/.stamp identity
  identity=$(native_identity)
  [ "$(cat "$stamp" 2>/dev/null)" != "$identity" ] || return 0
  mkdir -p "$LIBEXEC"
  step "container init and launcher, compiled" "$VENV/bin/python" -m hostler.host.native "$LIBEXEC" ||
    die "the container's init and launcher could not be compiled" "the compiler's last lines are above"
  printf '%s\n' "$identity" >"$stamp"
}
