//! `keys check`: proves that the identity at hand opens what this repository seals.
//!
//! Invariant: proven by opening what is stored (the test object, the newest backup's manifest, the newest WAL segment),
//! not by comparing keys. What doesn't open is told apart from what can't be read.

use futures::{StreamExt, stream};
use pgkeep_base::{BackupId, Error, ErrorKind, Result, ResultExt, WalSegment, limits};
use pgkeep_repo::fetch::{Unread, read_header, read_object};
use pgkeep_repo::genesis::{GENESIS_BYTES_MAX, genesis_name};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::rewrap::unwrap;
use pgkeep_repo::seal::{Kind, Seal};
use pgkeep_repo::wal::open_wal_to;

use crate::catalogue::{self, Backup, Catalogue};
use crate::controls::recipients_changes;
use crate::engine::Engine;
use crate::path::Archive;
use crate::window::head_timelines;

/// Whether an identity was seen to open something; the reason where it does not.
pub type Opened = std::result::Result<(), Error>;

/// What an identity was seen to open.
#[derive(Debug)]
pub struct KeysChecked {
    /// The repository's test object: the genesis, or the naming key in the newest change of recipients.
    pub test_object: Opened,
    /// The newest physical backup, by its manifest.
    pub newest_backup: Option<(BackupId, Opened)>,
    /// How many physical backups there are.
    pub backups: usize,
    /// How many of them open, by the key of their manifest.
    pub backups_opened: usize,
    /// The newest WAL segment of the newest backup's cluster.
    pub newest_wal: Option<(WalSegment, Opened)>,
}

impl KeysChecked {
    /// Everything that was tried opens.
    pub fn is_ok(&self) -> bool {
        let backup = self.newest_backup.as_ref().is_none_or(|(_, opened)| opened.is_ok());
        let wal = self.newest_wal.as_ref().is_none_or(|(_, opened)| opened.is_ok());
        self.test_object.is_ok() && backup && wal && self.backups == self.backups_opened
    }
}

/// Opens test object, backups and the newest WAL segment with the identities of the engine.
///
/// Costs one ranged read for each backup beside two whole objects.
///
/// # Errors
/// `Refused` without an identity, or with one that opens nothing of all this; what reading gives.
pub async fn check(engine: &Engine) -> Result<KeysChecked> {
    if !engine.has_identity() && !engine.sealer().recipients().is_empty() {
        return Err(Error::refused("there is no identity to check")
            .hint("Name one with `--identity FILE`, PGKEEP_IDENTITY_FILE, or `[restore] identity_file`."));
    }
    let test_object = test_object(engine)
        .await
        .during(|| "open the repository's test object")?;
    let catalogue = catalogue::load(engine, None).await?;
    let backups: Vec<&Backup> = physical(&catalogue).collect();
    let newest = catalogue.newest();
    let newest_backup = match newest {
        Some(backup) => Some((backup.head().id.clone(), opens_backup(engine, backup).await?)),
        None => None,
    };
    let backups_opened = count_opened(engine, &backups).await?;
    let newest_wal = match newest {
        Some(backup) => newest_wal(engine, &catalogue, backup).await?,
        None => None,
    };
    let nothing = test_object.is_err() && backups_opened == 0 && newest_wal.as_ref().is_none_or(|(_, o)| o.is_err());
    let backups = backups.len();
    match test_object {
        Err(error) if nothing => Err(error),
        test_object => Ok(KeysChecked {
            test_object,
            newest_backup,
            backups,
            backups_opened,
            newest_wal,
        }),
    }
}

fn physical(catalogue: &Catalogue) -> impl Iterator<Item = &Backup> {
    let all = catalogue.backups.iter();
    all.filter(|backup| backup.head().physical().is_ok())
}

/// Refusal for want of an identity is an answer; everything else is an error.
fn answer<T>(opened: std::result::Result<T, Error>) -> Result<Opened> {
    match opened {
        Ok(_) => Ok(Ok(())),
        Err(error) if error.kind() == ErrorKind::Refused => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

async fn test_object(engine: &Engine) -> Result<Opened> {
    let name = genesis_name();
    let opener = engine.opener().await?;
    let read = read_object(&engine.stores(), opener, &name, Kind::Genesis, GENESIS_BYTES_MAX).await;
    let genesis = answer(read.map_err(|why| why.into_error(&name)))?;
    if genesis.is_ok() {
        return Ok(genesis);
    }
    match recipients_changes(engine).await?.newest() {
        Some(newest) => answer(newest.naming_key(&engine.setup().identities)),
        None => Ok(genesis),
    }
}

/// Whether the identities of the engine open the repository's test object.
///
/// # Errors
/// `Refused` where none does; what reading gives.
pub async fn opens_test_object(engine: &Engine) -> Result<()> {
    test_object(engine).await?
}

async fn opens_backup(engine: &Engine, backup: &Backup) -> Result<Opened> {
    let head = backup.head();
    let name = head.lineage().manifest_name(&head.id);
    let bytes = head.physical()?.manifest.bytes;
    let read = read_object(&engine.stores(), engine.opener().await?, &name, Kind::Manifest, bytes).await;
    answer(read.map_err(|why| why.into_error(&name))).during(|| format!("open the manifest of backup {}", head.id))
}

/// How many manifests open, by their headers alone.
async fn count_opened(engine: &Engine, backups: &[&Backup]) -> Result<usize> {
    let mut looks = Vec::with_capacity(backups.len());
    for backup in backups {
        looks.push(opens_header(engine, backup));
    }
    let looked: Vec<_> = stream::iter(looks).buffered(limits::REQUESTS_IN_FLIGHT).collect().await;
    let mut opened = 0;
    for one in looked {
        opened += usize::from(one?.is_ok());
    }
    Ok(opened)
}

async fn opens_header(engine: &Engine, backup: &Backup) -> Result<Opened> {
    let head = backup.head();
    let name = head.lineage().manifest_name(&head.id);
    let (stores, opener) = (engine.stores(), engine.opener().await?);
    let bytes = head.physical()?.manifest.bytes;
    let header = read_header(&stores, opener, &name, Some(bytes)).await;
    match header.map_err(|why: Unread| why.into_error(&name))?.seal {
        Seal::None => Ok(Ok(())),
        Seal::Age { key } => answer(unwrap(&stores, opener, &name, &key).await),
    }
}

async fn newest_wal(engine: &Engine, catalogue: &Catalogue, newest: &Backup) -> Result<Option<(WalSegment, Opened)>> {
    let lineage: Lineage = newest.head().lineage();
    let head = newest.head().physical()?;
    let backups = catalogue.physical(&lineage);
    let first = *head.needed_wal().start();
    let archive = Archive::load(engine, &lineage, head.segment_bytes, first, head_timelines(&backups)).await?;
    let Some(timeline) = archive.timelines().pop() else {
        return Ok(None);
    };
    let last = archive.last_number(timeline);
    let found = last.and_then(|number| Some((number, archive.contents(timeline, number).first()?)));
    let Some((number, content)) = found else {
        return Ok(None);
    };
    let segment = WalSegment {
        timeline,
        number,
        size: head.segment_bytes,
    };
    let name = archive.object_name(&segment, content)?;
    let read = open_wal_to(&engine.stores(), engine.opener().await?, engine.naming(), &name, |_| {
        Ok(())
    })
    .await;
    let opened = answer(read.map_err(|why| why.into_error(&name)))?;
    Ok(Some((segment, opened)))
}
