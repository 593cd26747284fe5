//! Everything that pgkeep knows about PostgreSQL 14 to 18: its files, its WAL, its SQL, its programs.
//!
//! Invariant: nothing here names a bucket or a repository, and no other room knows an offset, a file name or a setting
//! of PostgreSQL. A value read from PostgreSQL's files leaves this room only after every check that the format offers.
//!
//! Files: [`datadir`] lists what a base backup holds, [`control`] reads `pg_control`, [`page`] checks pages, [`label`]
//! reads `backup_label` and `tablespace_map`, [`history`] timelines, [`settings`] writes recovery settings.
//! WAL: [`wal`] reads segments record by record. A running server: [`connect`] reaches it, [`session`] backs it up,
//! [`facts`] asks about it, [`server`] runs throw-away ones with the programs that [`binaries`] finds.

pub mod binaries;
pub mod connect;
pub mod control;
pub mod datadir;
pub mod facts;
pub mod history;
pub mod label;
pub mod page;
pub mod server;
pub mod session;
pub mod settings;
pub mod wal;
