#!/usr/bin/env python3
"""Restores a pgkeep repository without pgkeep: an independent reader, written from docs/format.md alone.

It needs Python 3.11 with `cryptography`, `zstandard`, `blake3` and `pyrage`, the directory that holds the repository,
and an identity. See README.md beside it, and run it with --help. The modules, in the order of the format:

    sealed.py       signed documents and sealed frames (sections 2 and 3)
    repository.py   names, copies, trust and keys (1, 2, 3, 9)
    backup.py       heads, manifests, chunks (4, 5, 6)
    files.py        writes the data directory (5)
    wal.py          WAL for PostgreSQL's restore_command (7)

What docs/format.md did not say, or not clearly, when this was written from it. What was wanting has been added since,
except where "here" says what this reader does by its own lights.

 1. Dangerous: a segment taken from a descendant timeline has to be cut where the descendant began. Handed out whole,
    it made PostgreSQL panic at the descendant's first record, "unexpected timeline ID 2 (after 1)".
 2. Dangerous: `tablespace_map` must not reach PostgreSQL as it is if a tablespace was put elsewhere: PostgreSQL turns
    the links back to where they pointed, perhaps into the live cluster. Here: it is left out, and the links are made.
 3. What proves that a WAL file is absent, so that PostgreSQL may be told so.
 4. Whether an old primary's segment may be handed out past the fork (no: cut, too), and whether `<segment>.partial` may
    stand in for its segment. Here: where no whole one goes on to its end.
 5. Whether the `signers` in the genesis are trusted, and who vouches for the genesis.
 6. What becomes of those whom a withdrawn signer had enrolled, and who may withdraw whom. Here: where `signer` objects
    contradict each other fewer are trusted, never more; see `_settle_trust` in repository.py.
 7. That a `rewrap` may wrap the key of the genesis, so that rewraps are read before the genesis is opened.
 8. What an identity file looks like, that the id of a repository is 32 hexadecimal digits, how precise times are (here
    they are compared to the microsecond), how exactly the second line of a signed document is spelled.
 9. Whether `location` is escaped as paths are, that `mode` may hold more than permission bits, and what PostgreSQL
    needs to recover from what was restored.
10. Which key `prefix` is made with, what `valid_to` is where the last record goes on in the next segment, what the
    header of a `wal-part` has.
11. What else may lie in a directory store, and how large signed documents other than heads may be.
"""

import argparse
import os
import shlex
import sys


def give_up(*fault):
    """Ends with 255: PostgreSQL stops on that, whereas it would take 1 for the end of the WAL and open for writing."""
    sys.__excepthook__(*fault)
    sys.stderr.flush()
    os._exit(255)


sys.excepthook = give_up  # before the imports below, which fail where a library is missing

from backup import Manifest, backups  # noqa: E402
from files import tablespaces, write  # noqa: E402
from repository import Repository, note, read_identities  # noqa: E402
from sealed import MALFORMED, Refused  # noqa: E402
from wal import Absent, serve  # noqa: E402


def main():
    options = parse_options()
    try:
        identities = read_identities(options.identity) if options.identity else []
        repository = Repository(options.repository, identities, options.signer)
        return options.command(repository, options)
    except Absent as why:
        note(why)
        return 1
    except (Refused, OSError, *MALFORMED) as fault:
        print(f"error: {fault or repr(fault)}", file=sys.stderr)
        return 255 if options.command is wal_command else 1


def list_command(repository, options):
    found = backups(repository, lineage_pattern(options))
    hashes = {backup.hash for backup in found}
    for head, signer, _ in found:
        print(f"{head['id']}  {head['cluster']}/{head['system_identifier']}  {head['kind']}")
        print(f"    finished {head['finished_at']}, signed by {signer}, labels {head['labels']}")
        if head["kind"] == "physical":
            print(f"    PostgreSQL {head['pg_version']}, {head['source_bytes']} bytes, {head['bad_pages']} bad pages")
            print(f"    timeline {head['timeline']}, from {head['start_lsn']} to {head['stop_lsn']}")
        if head["previous_head"] not in hashes | {None}:
            print("    the head that it names as the one before it is not here: pruned, or taken away")
    whom = "that you named" if options.signer else "that the repository names itself: compare with your own record"
    note(f"trusted are the signers {whom}: {', '.join(sorted(repository.trusted))}")
    return 0 if len(found) == len(repository.names(f"backups/{lineage_pattern(options)}/*/head")) else 1


def restore_command(repository, options):
    lineage = the_lineage(repository, options)
    found = [backup.head for backup in backups(repository, lineage) if backup.head["kind"] == "physical"]
    chosen = found[-1:] if options.backup == "latest" else [head for head in found if head["id"] == options.backup]
    if not chosen:
        raise Refused(f"there is no good physical backup {options.backup} of {lineage}")
    manifest = Manifest(repository, chosen[0])
    named = dict(place.split("=", 1) for place in options.tablespace)
    places = {}
    for oid, location in tablespaces(manifest).items():
        if oid not in named and not options.tablespaces:
            raise Refused(f"tablespace {oid} was at {location}: say --tablespaces DIR, or --tablespace {oid}=DIR")
        places[oid] = named.get(oid) or os.path.join(options.tablespaces, oid)
    write(manifest, options.target, places)
    note(f"{options.target} is complete; to recover, add recovery.signal and these settings, and start PostgreSQL")
    print(recovery_settings(options, lineage))
    return 0


def wal_command(repository, options):
    serve(repository, the_lineage(repository, options), options.file, options.destination, options.timeline)
    return 0


def recovery_settings(options, lineage):
    """Settings with which PostgreSQL recovers all that was archived, and does not archive into the same repository."""
    cluster, system_identifier = lineage.split("/")
    command = [sys.executable, os.path.abspath(__file__), "wal", "--repository", os.path.abspath(options.repository)]
    command += ["--cluster", cluster, "--system-identifier", system_identifier]
    command += ["--identity", os.path.abspath(options.identity)] if options.identity else []
    command += [word for signer in options.signer for word in ("--signer", signer)]
    command = shlex.join(command).replace("%", "%%").replace("'", "''") + " %f %p"
    return f"restore_command = '{command}'\nrecovery_target_timeline = 'latest'\narchive_mode = off"


def lineage_pattern(options):
    return f"{options.cluster or '*'}/{options.system_identifier or '*'}"


def the_lineage(repository, options):
    """The one lineage that is meant: "cluster/system identifier"."""
    names = repository.names(f"backups/{lineage_pattern(options)}/*/head")
    found = sorted({"/".join(name.split("/")[1:3]) for name in names})
    if len(found) != 1:
        raise Refused(f"say --cluster and --system-identifier: there are backups of {', '.join(found) or 'nothing'}")
    return found[0]


def parse_options():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repository", required=True, metavar="DIR", help="the directory that holds the repository")
    common.add_argument("--identity", metavar="FILE", help="age identity file; not needed where nothing is sealed")
    common.add_argument("--signer", action="append", default=[], metavar="s-…", help="trust this fingerprint")
    common.add_argument("--cluster", metavar="NAME", help="where the repository has several")
    common.add_argument("--system-identifier", metavar="N", help="where the cluster has several")
    parser = argparse.ArgumentParser(description="Restores a pgkeep repository without pgkeep.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", parents=[common], help="list the backups, and who signed them")
    command.set_defaults(command=list_command)

    command = commands.add_parser("restore", parents=[common], help="write the data directory of a backup")
    command.add_argument("backup", help="its id, or: latest")
    command.add_argument("target", help="data directory to be, absent or empty")
    command.add_argument("--tablespaces", metavar="DIR", help="put tablespaces below this directory, by OID")
    command.add_argument("--tablespace", action="append", default=[], metavar="OID=DIR", help="put this one here")
    command.set_defaults(command=restore_command)

    command = commands.add_parser("wal", parents=[common], help="restore_command: 0 done, 1 no such file, 255 stop")
    command.add_argument("file", help="name of the WAL file (%%f)")
    command.add_argument("destination", help="where to put it (%%p)")
    command.add_argument("--timeline", type=int, metavar="N", help="that PostgreSQL recovers to [default: the latest]")
    command.set_defaults(command=wal_command)
    try:
        return parser.parse_args()
    except SystemExit as end:
        sys.exit(255 if end.code else 0)


if __name__ == "__main__":
    sys.exit(main())
