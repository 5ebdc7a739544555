# shellcheck shell=bash
# A CRIU new enough for today's kernels, without touching the distribution's own libraries. Sourced by ops/install.
#
# Kernels from 6.16 on need 4.2 (3.17 fails on their vDSO, 4.1 on SO_PASSCRED of TCP sockets), older ones do with 4.0: hostler.host.criu
# has the same rule. Where the distribution's is too old, Debian unstable's is unpacked beside the checkout with its own libraries
# and run through its own ld.so.

CRIU_TREE=$CHECKOUT/.tools/criu
CRIU_WRAPPER=$CRIU_TREE/bin/criu
# Left by a try that failed; for a day it is not repeated, or each ops/up would wait for a mirror that is down.
CRIU_FAILED=$CHECKOUT/.tools/criu.failed

# criu_version PROGRAM: such as 4.2.1; nothing when it does not run.
criu_version() { "$1" --version 2>/dev/null | sed -n 's/^Version: *//p'; }

# criu_wanted [KERNEL]: the oldest that works there; the kernel that runs unless another is named.
criu_wanted() { if printf '%s\n' 6.16 "${1:-$(uname -r)}" | sort -CV; then echo 4.2; else echo 4.0; fi; }

# new_enough VERSION [KERNEL]
new_enough() { [ -n "$1" ] && printf '%s\n' "$(criu_wanted "${2:-}")" "$1" | sort -CV; }

# debian_mirror: address of the machine's own configured Debian archive.
debian_mirror() {
  # shellcheck disable=SC2016  # apt fills these in
  apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' |
    awk -F'|' '$1 == "Packages" && $2 == "Debian" && $3 == "Debian" && $4 == "main" { print $5; exit }'
}

unpack_criu() {
  local mirror fresh=$CRIU_TREE.new loader library
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || { echo "apt knows no Debian archive (apt-get update first?)"; return 1; }
  rm -rf "$fresh"
  mkdir -p "$fresh"
  timeout 300 mmdebstrap --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=criu,libc-bin sid "$fresh/tree" "$mirror" || return
  loader=$(cd "$fresh/tree" && find usr/lib usr/lib64 -name 'ld-linux*.so.*' -print -quit)
  library=$(cd "$fresh/tree" && find usr/lib -name 'libprotobuf-c.so.1' -printf '%h' -quit)
  if [ -z "$loader" ] || [ -z "$library" ]; then
    echo "the unpacked tree has no loader or no libraries"
    return 1
  fi
  mkdir -p "$fresh/bin"
  {
    echo '#!/bin/sh'
    # shellcheck disable=SC2016  # for the wrapper's own shell
    printf 'exec "%s" --library-path "%s" "%s" "$@"\n' \
      "$CRIU_TREE/tree/$loader" "$CRIU_TREE/tree/$library" "$CRIU_TREE/tree/usr/sbin/criu"
  } >"$fresh/bin/criu"
  chmod 0755 "$fresh/bin/criu"
  rm -rf "$CRIU_TREE"
  mv "$fresh" "$CRIU_TREE"
  new_enough "$(criu_version "$CRIU_WRAPPER")" || { echo "the unpacked CRIU does not run here"; return 1; }
}

# ensure_criu: never fatal; what is missing then is said by `hostler doctor`.
ensure_criu() {
  local candidate
  ! new_enough "$(criu_version "$CRIU_WRAPPER")" || return 0
  ! new_enough "$(criu_version criu)" || return 0
  [ -z "$(find "$CRIU_FAILED" -mmin -1440 2>/dev/null)" ] || return 0
  candidate=$(apt-cache policy criu 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9.]*\).*/\1/p')
  if new_enough "$candidate"; then
    step "CRIU $candidate of the distribution" install_packages criu && rm -f "$CRIU_FAILED" && return 0
  else
    step "CRIU of Debian unstable, in .tools/criu" unpack_criu && rm -f "$CRIU_FAILED" && return 0
  fi
  rm -rf "$CRIU_TREE.new"
  touch "$CRIU_FAILED"
  say "  no CRIU ≥ $(criu_wanted) could be had: containers run, but cannot be suspended to disk or moved while they run"
  say "  (tried again after a day, or once $CRIU_FAILED is removed)"
}
