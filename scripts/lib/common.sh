# shellcheck shell=bash
# Words that every script here shares: where the project and its caches are, how to say things, how to get packages.
#
# Sourced, never run. Sets ROOT (the checkout). Works with HOME unset, from any directory, as root and as a user with
# sudo. What is already there is not touched and not mentioned, so that a second run is quiet.

# shellcheck disable=SC2034 # for who sources this
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

if [ -z "${HOME:-}" ]; then
  HOME=$(getent passwd "$(id -u)" | cut -d: -f6) || true
  export HOME="${HOME:-/tmp}"
fi

say() { printf '%s\n' "$*" >&2; }

# die MESSAGE [HINT]: in PostgreSQL's words, as the binary does it.
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Downloads are kept here. PostgreSQL refuses to run as root, so what root fetches must be readable by the unprivileged
# user that runs it; /root usually isn't.
cache_dir() {
  if [ -n "${PGKEEP_CACHE:-}" ]; then
    printf '%s\n' "$PGKEEP_CACHE"
  elif [ "$(id -u)" = 0 ]; then
    printf '/var/cache/pgkeep\n'
  else
    printf '%s/.cache/pgkeep\n' "$HOME"
  fi
}

# absolute_path DIR: without requiring that it exists.
absolute_path() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s/%s\n' "$PWD" "$1" ;;
  esac
}

can_be_root() { [ "$(id -u)" = 0 ] || { have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# quietly WHAT COMMAND...: runs it with its output in a log that is shown only when it fails.
quietly() {
  local what=$1 log
  shift
  log=$(mktemp)
  say "$what"
  if "$@" >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    return 0
  fi
  tail -n 30 "$log" >&2
  rm -f "$log"
  return 1
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# Whether packages can be installed here at all.
can_install() { have apt-get && can_be_root; }

# Where the package lists were brought up to date once is remembered for this run: a fresh machine has none, and
# a stale list names versions that the mirror no longer has.
APT_LISTS_FRESH=
apt_install() {
  if [ -z "$APT_LISTS_FRESH" ]; then
    quietly "updating the package lists" apt_get update || die "could not update the package lists" \
      "Check the network and /etc/apt/sources.list, then run this again."
    APT_LISTS_FRESH=yes
  fi
  quietly "installing $*" apt_get install --no-install-recommends "$@" || die "could not install $*" \
    "Install them by hand, then run this again."
}

# need WHAT TEST PACKAGE...: makes sure that TEST (a function or command) succeeds, by installing the packages if not.
need() {
  local what=$1 test=$2
  shift 2
  ! $test || return 0
  can_install || die "this machine lacks $what" \
    "Install it (on Debian: apt-get install $*), or run this as root or as a user with sudo on Debian or Ubuntu."
  apt_install "$@"
  $test || die "this machine lacks $what, even after installing $*" "Install it by hand, then run this again."
}
