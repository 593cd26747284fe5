# shellcheck shell=bash
# What building needs: a C compiler for the few C libraries, root certificates for downloads, and Rust.
#
# Sourced after common.sh. A Rust that is too old is left alone: rustup puts a new one beside it, in the home directory.

# Of rustup, whether its directory is on this shell's PATH yet or not.
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export PATH
TARGET=$(absolute_path "${CARGO_TARGET_DIR:-$ROOT/target}")
export CARGO_TARGET_DIR="$TARGET"

has_certificates() { [ -s "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || [ -s /etc/pki/tls/certs/ca-bundle.crt ]; }

has_cc() { printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; }

has_curl() { have curl; }

# at_least VERSION WANTED
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

has_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  cargo --version >/dev/null 2>&1 && at_least "$found" "$wanted"
}

install_rust() {
  if have rustup; then
    quietly "installing the stable Rust toolchain" rustup toolchain install stable --profile minimal &&
      quietly "choosing it" rustup default stable
    return
  fi
  need "curl" has_curl curl ca-certificates
  quietly "installing Rust with rustup into ${CARGO_HOME:-$HOME/.cargo}" run_rustup_installer
}

# The official installer; where its short address can't be reached, the program that it would download.
run_rustup_installer() {
  local dir options=(-y --profile minimal --no-modify-path --default-toolchain stable)
  dir=$(mktemp -d)
  if fetch_url https://sh.rustup.rs >"$dir/installer"; then
    sh "$dir/installer" "${options[@]}" && rm -rf "$dir"
    return
  fi
  fetch_url "https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init" >"$dir/rustup-init" &&
    chmod +x "$dir/rustup-init" && "$dir/rustup-init" "${options[@]}" && rm -rf "$dir"
}

fetch_url() { curl --proto '=https' --tlsv1.2 -sSfL --retry 3 "$1"; }

need_build() {
  need "root certificates" has_certificates ca-certificates
  need "a C compiler" has_cc gcc libc6-dev
  has_rust || install_rust || die "could not install Rust" "See https://www.rust-lang.org/tools/install"
  hash -r
  has_rust || die "$(rustc --version 2>/dev/null || echo Rust) is too old for this project" \
    "Run \`rustup update stable\`, or put a newer cargo first on the PATH."
}

# cargo_project ARGS...: cargo, in the project.
cargo_project() { (cd "$ROOT" && cargo "$@"); }
