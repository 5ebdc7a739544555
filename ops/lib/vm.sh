# shellcheck shell=bash
# A stock Debian 13 kernel in an emulated machine, for tests of what the kernel below them lacks. Sourced by ops/test.

# Not among the default packages: nothing but `ops/test vm` needs them.
VM_PACKAGES=(
  debian-archive-keyring # the keys of Debian 13's archive, on Debian 12 too
  e2fsprogs              # mke2fs -d: packs the root
  mmdebstrap             # builds the root
  qemu-system-x86        # the machine
)

ensure_vm_packages() { ensure_packages "${VM_PACKAGES[@]}"; }

# What is tested there unless it is said otherwise: this folder, and drivers on what only that kernel has.
VM_TESTS=(
  tests/vm tests/host/test_devices.py tests/plugins/ns/test_isolation.py::test_devices
  tests/plugins/ns/test_life.py::test_too_little_memory_says_so tests/plugins/ns/test_life.py::test_too_few_processes_say_so
  --pyargs hostler.testing
  --driver limits:cgroup2 --driver storage:overlay --driver storage:loop --driver ns:crun --driver ns:runc
  --driver-small ext4 --driver-kills 2
)

# run_in_vm [OPTION…] or run_in_vm -- TEST-OR-OPTION…: exit status of pytest there.
run_in_vm() {
  local image tests=("${VM_TESTS[@]}")
  [ "$(uname -m)" = x86_64 ] || die "the virtual machine is made for x86_64, this is $(uname -m)" "run ops/test vm on such a machine"
  if [ "${1:-}" = -- ]; then
    shift
    tests=()
  fi
  ensure_vm_packages
  image=$("$CHECKOUT/ops/vm/image") || return
  "$CHECKOUT/.venv/bin/python" "$CHECKOUT/ops/vm/run.py" --image "$image" -- "${tests[@]}" "$@"
}
