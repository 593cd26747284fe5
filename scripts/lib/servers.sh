# shellcheck shell=bash
# What real servers and faults need: PostgreSQL 14 to 18, an S3 server, and programs that make disks and errors.
#
# Sourced after common.sh. Who names directories of their own is taken at their word: what is missing there fails.

has_openssl() { have openssl; }
has_mount() { have mount; }
has_mkfs() { [ -x /sbin/mkfs.ext4 ] || [ -x /usr/sbin/mkfs.ext4 ]; }
has_localhost() { getent hosts localhost >/dev/null; }

# need_servers: sets PGKEEP_PG_DIR and PGKEEP_S3_BIN, fetching what nobody named.
need_servers() {
  # PostgreSQL 14 keeps no statistics without it. Every machine has it, but a bare root file system may not.
  if ! has_localhost && can_be_root; then
    say "adding localhost to /etc/hosts"
    as_root sh -c "echo '127.0.0.1 localhost' >>/etc/hosts"
  fi
  has_localhost || die "the name localhost can't be resolved" "Add the line \"127.0.0.1 localhost\" to /etc/hosts."
  need "openssl" has_openssl openssl
  if [ -z "${PGKEEP_PG_DIR:-}" ]; then
    PGKEEP_PG_DIR="$(cache_dir)/postgres"
    "$ROOT/scripts/fetch-postgres" "$PGKEEP_PG_DIR"
  fi
  if [ -z "${PGKEEP_S3_BIN:-}" ]; then
    PGKEEP_S3_BIN="$(cache_dir)/s3/weed"
    "$ROOT/scripts/fetch-s3-server" "$(dirname "$PGKEEP_S3_BIN")"
  fi
  export PGKEEP_PG_DIR PGKEEP_S3_BIN
}

# need_disks: small disks that are full or lose power.
need_disks() {
  need "mount" has_mount mount
  need "mkfs.ext4" has_mkfs e2fsprogs
}
