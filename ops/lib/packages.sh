# shellcheck shell=bash
# Debian packages that the platform needs: the one list, each with its reason. Sourced by ops/install.

# shellcheck disable=SC2034  # read by ops/install
PACKAGES=(
  acl              # setfacl: lets the unprivileged user reach a checkout below a closed folder such as /root
  btrfs-progs      # mkfs.btrfs and send/receive: storage driver btrfs
  busybox-static   # the small image's only program
  ca-certificates  # TLS to package registries
  crun             # the OCI runtime of ns driver crun: less than runc's time to create and to exec
  gcc              # compiles the container's init and launcher
  libc6-dev        # their headers
  lxcfs            # shows containers their own memory, processors and load in /proc
  libnftables1     # rules of driver bridge, in one transaction
  mmdebstrap       # builds Debian images; brings a newer CRIU where the distribution's is too old
  redis-server     # the queue between panel, control worker and servers
  runc             # the OCI runtime of ns driver runc
)

# What only `ops/test` needs.
# shellcheck disable=SC2034  # read by ops/install
DEV_PACKAGES=(
  e2fsprogs        # mkfs.ext4: a pool that is not btrfs
  git              # which files are the repository's
  iproute2         # ip: links as a tool that is not ours sees them
  iputils-ping     # ping: that servers reach each other, with loss counted
  nftables         # nft: rules as a tool that is not ours sees them
  postgresql       # the store's tests run on PostgreSQL too
  shellcheck       # linter of these scripts
)

# Services that come with these packages and that nothing here uses (Redis and the tests' PostgreSQL run on private sockets, each
# server has an lxcfs of its own),
# each with a program that tells whether it was there before.
declare -A IDLE_SERVICES=([lxcfs]=/usr/bin/lxcfs [redis-server]=/usr/bin/redis-server [postgresql]=/usr/bin/pg_ctlcluster)
SYSTEMD_RUNNING=${SYSTEMD_RUNNING:-/run/systemd/system}

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

# absent_services: those of IDLE_SERVICES that this machine does not have.
absent_services() {
  local service
  for service in "${!IDLE_SERVICES[@]}"; do
    [ -e "${IDLE_SERVICES[$service]}" ] || printf '%s\n' "$service"
  done
}

# install_packages NAME…: from the machine's own configured sources. A service that came only with them stays off; one
# that was there goes on as it was.
install_packages() {
  local absent service
  mapfile -t absent < <(absent_services)
  apt-get -o APT::Update::Error-Mode=any update || return
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" || return
  [ -d "$SYSTEMD_RUNNING" ] || return 0
  for service in "${absent[@]}"; do
    [ ! -e "${IDLE_SERVICES[$service]}" ] || systemctl disable --now "$service.service" || return
  done
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
