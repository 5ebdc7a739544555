# shellcheck shell=bash
# Debian packages that the platform needs: the one list, each with its reason. Sourced by ops/install.

# shellcheck disable=SC2034  # read by ops/install
PACKAGES=(
  acl              # setfacl: lets the unprivileged user reach a checkout below a closed folder such as /root
  btrfs-progs      # mkfs.btrfs and send/receive: storage driver btrfs
  busybox-static   # the small image's only program
  ca-certificates  # TLS to package registries
  gcc              # compiles the container's init and launcher
  libc6-dev        # their headers
  libnftables1     # rules of driver bridge, in one transaction
  mmdebstrap       # builds Debian images; brings a newer CRIU where the distribution's is too old
  redis-server     # the queue between panel, control worker and servers
  runc             # the OCI runtime
)

# What only `ops/test` needs.
# shellcheck disable=SC2034  # read by ops/install
DEV_PACKAGES=(
  postgresql       # the store's tests run on PostgreSQL too
  shellcheck       # linter of these scripts
)

# missing_packages NAME…: those that dpkg does not have installed.
missing_packages() {
  local installed name
  # dpkg-query fails when it has never heard of one of them
  installed=" $({ dpkg-query -W -f '${binary:Package}=${db:Status-Status}\n' "$@" 2>/dev/null || true; } |
    sed -n 's/^\([^:=]*\).*=installed$/\1/p' | tr '\n' ' ')"
  for name in "$@"; do
    [[ $installed == *" $name "* ]] || printf '%s\n' "$name"
  done
}

# install_packages NAME…: from the machine's own configured sources.
install_packages() {
  local service_wanted=yes
  [ -e /usr/bin/redis-server ] || service_wanted=no
  apt-get -o APT::Update::Error-Mode=any update || return
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" || return
  # The platform runs a Redis of its own on a private socket: one that came only with the package stays off.
  if [ "$service_wanted" = no ] && [ -d /run/systemd/system ]; then
    systemctl disable --now redis-server.service
  fi
}

ensure_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || die "these Debian packages are missing: ${missing[*]}" "run ops/install once as root"
  command -v apt-get >/dev/null || die "these packages are missing and there is no apt-get: ${missing[*]}" \
    "Hostler is developed on Debian 12 and 13; elsewhere install them by hand"
  say "  Debian packages to install: ${missing[*]}"
  step "apt-get install" install_packages "${missing[@]}" ||
    die "apt-get could not install: ${missing[*]}" "its last lines are above; check the machine's package sources"
}
