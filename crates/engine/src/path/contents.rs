//! Which of several contents of one segment is the one to use: the longest, where the others are its beginnings.
//!
//! Invariant (docs/format.md, section 7): two contents that fork are never chosen between silently. Where both were
//! archived as the segment, none is used. A `.partial` file that forks from the whole segment is passed over, and told.

use std::sync::Arc;

use pgkeep_base::{Error, Lsn, Result, WalSegment};
use pgkeep_repo::open::Unread;
use pgkeep_repo::wal::{Longer, Relation, WalFacts, compare, compare_contents, open_wal, read_wal_header};
use pgkeep_store::Store;

use super::archive::{Archive, Content};
use crate::engine::Engine;
use crate::wal::local::LocalSegment;
use crate::wal::map::Holder;

/// The content of a segment that was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// Its keyed hash.
    pub hash: String,
    /// What holds it.
    pub holder: Holder,
    /// What its object says of it.
    pub facts: Option<WalFacts>,
    /// The content itself.
    pub bytes: Vec<u8>,
    /// What was passed over, in words.
    pub notes: Vec<String>,
}

impl Chosen {
    /// Whether it goes to the segment's end, so that nothing can continue it.
    pub(super) fn is_complete(&self) -> bool {
        let complete = |facts: &WalFacts| facts.segment.stopped.is_none();
        self.holder == Holder::Segment && self.facts.as_ref().is_some_and(complete)
    }
}

/// Opens what was archived of a segment; `None` where nothing was. The inner error says that no good copy exists.
///
/// Contents are compared byte by byte, since an identity is at hand; only up to `until`, where the way leaves the segment.
///
/// # Errors
/// `Refused` where an object is there and whole, but its signer is not trusted, or no identity opens it.
pub async fn open_segment(
    engine: &Engine,
    stores: &[Arc<dyn Store>],
    archive: &Archive,
    segment: WalSegment,
    until: Option<Lsn>,
) -> Result<Option<Result<Chosen>>> {
    if archive.is_cut(segment.timeline, segment.number) {
        return Ok(Some(Err(cut_off())));
    }
    let mut best: Option<Chosen> = None;
    for content in archive.contents(segment.timeline, segment.number) {
        let opened = open(engine, stores, archive, segment, content).await?;
        best = Some(match (best, opened) {
            (None, Ok(opened)) => opened,
            (Some(mut known), Err(error)) if content.holder != Holder::Segment && known.is_complete() => {
                known.notes.push(format!("{segment}.partial can't be read: {error}"));
                known
            }
            (_, Err(error)) => return Ok(Some(Err(error))),
            (Some(known), Ok(other)) => match longer(segment, until, known, other) {
                Ok(longer) => longer,
                Err(error) => return Ok(Some(Err(error))),
            },
        });
    }
    Ok(best.map(Ok))
}

fn cut_off() -> Error {
    Error::corrupt("it was archived, and every repository has less of it than the header of an object")
        .hint("Whatever cut it off may have cut more: look at the storage, then `pgkeep wal list --gaps`.")
}

/// Of two contents the one that goes on where the other ends. `known` comes first in the archive's order.
fn longer(segment: WalSegment, until: Option<Lsn>, mut known: Chosen, other: Chosen) -> Result<Chosen> {
    let relation = match (relation(&known, &other), until) {
        (Relation::Fork | Relation::Unknown, Some(until)) => relation_before(until, &known, &other),
        (relation, _) => relation,
    };
    match beside(relation, known.is_complete(), other.holder) {
        Beside::Known => Ok(known),
        Beside::Other => Ok(other),
        Beside::PassedOver => {
            known.notes.push(format!(
                "{segment}.partial does not go with the whole segment {segment} and is not used: another server wrote it"
            ));
            Ok(known)
        }
        Beside::Contested => Err(two_histories(segment)),
    }
}

/// What becomes of a content beside one that comes first in the archive's order.
enum Beside {
    Known,
    Other,
    PassedOver,
    Contested,
}

fn beside(relation: Relation, known_is_complete: bool, other: Holder) -> Beside {
    match relation {
        Relation::Same | Relation::LongerTail(Longer::First) => Beside::Known,
        Relation::LongerTail(Longer::Second) => Beside::Other,
        Relation::Fork | Relation::Unknown if other != Holder::Segment && known_is_complete => Beside::PassedOver,
        Relation::Fork | Relation::Unknown => Beside::Contested,
    }
}

/// Whether a plan may refuse what was archived of a segment because it is of two histories, as far as facts tell. Needs no
/// identity, and reads nothing where there is but one content.
///
/// # Errors
/// `Invalid` for a segment that can't be.
pub async fn is_contested(engine: &Engine, archive: &Archive, segment: WalSegment) -> Result<bool> {
    let contents = archive.contents(segment.timeline, segment.number);
    let mut best: Option<WalFacts> = None;
    for content in contents.iter().filter(|_| contents.len() > 1) {
        let is_complete = best.as_ref().is_some_and(|best| best.segment.stopped.is_none());
        let facts = archive.facts(engine, segment, content).await;
        let relation = match (&best, &facts) {
            (None, Some(_)) => Relation::LongerTail(Longer::Second),
            (Some(best), Some(facts)) => by_length(best, facts),
            (_, None) => Relation::Unknown,
        };
        match beside(relation, is_complete, content.holder) {
            Beside::Known | Beside::PassedOver => {}
            Beside::Other => best = facts,
            Beside::Contested => return Ok(true),
        }
    }
    Ok(false)
}

/// How two contents of one segment relate.
pub fn relation(a: &Chosen, b: &Chosen) -> Relation {
    let (Some(first), Some(second)) = (&a.facts, &b.facts) else {
        return Relation::Unknown;
    };
    match compare(first, second) {
        Relation::Unknown => compare_contents((first, &a.bytes), (second, &b.bytes)),
        known => known,
    }
}

/// How two contents relate before a position: whose the rest is doesn't matter to a way that leaves the segment there.
fn relation_before(until: Lsn, a: &Chosen, b: &Chosen) -> Relation {
    let valid = |chosen: &Chosen| {
        let facts = &chosen.facts.as_ref()?.segment;
        Some(facts.valid_to.min(until).0.saturating_sub(facts.start.0) as usize)
    };
    let (Some(first), Some(second)) = (valid(a), valid(b)) else {
        return Relation::Unknown;
    };
    let both = first.min(second);
    match a.bytes.get(..both) == b.bytes.get(..both) {
        true if first < second => Relation::LongerTail(Longer::Second),
        true => Relation::LongerTail(Longer::First),
        false => Relation::Fork,
    }
}

async fn open(
    engine: &Engine,
    stores: &[Arc<dyn Store>],
    archive: &Archive,
    segment: WalSegment,
    content: &Content,
) -> Result<Result<Chosen>> {
    if let (Holder::Saved, Some(local)) = (content.holder, &content.local) {
        return Ok(open_local(engine, local, &content.hash));
    }
    let name = archive.object_name(&segment, content)?;
    let why = match open_wal(stores, engine.opener().await?, engine.naming(), &name).await {
        Ok((header, bytes)) => {
            return Ok(Ok(Chosen {
                hash: content.hash.clone(),
                holder: content.holder,
                facts: header.facts,
                bytes,
                notes: Vec::new(),
            }));
        }
        Err(why @ Unread::Refused(_)) => return Err(why.into_error(&name)),
        Err(why) => why.into_error(&name),
    };
    let local = content.local.as_ref();
    let opened = local.and_then(|local| Some((local, open_local(engine, local, &content.hash).ok()?)));
    let Some((local, mut chosen)) = opened else {
        return Ok(Err(why));
    };
    let path = local.path.display();
    chosen.notes.push(format!(
        "the archive's {segment} can't be used ({why}); the same content is taken from {path}"
    ));
    Ok(Ok(chosen))
}

/// Opens a file outside of the archive, which must have the content of that hash.
pub fn open_local(engine: &Engine, local: &LocalSegment, hash: &str) -> Result<Chosen> {
    let inspected = local.inspect()?;
    let digest = engine.naming().digest(inspected.content.source())?;
    if digest.hash != hash {
        return Err(Error::conflict(format!(
            "{} was changed meanwhile",
            local.path.display()
        )));
    }
    Ok(Chosen {
        hash: digest.hash,
        holder: Holder::Saved,
        facts: Some(WalFacts {
            segment: inspected.facts,
            prefix: digest.prefix,
        }),
        bytes: inspected.content.into_bytes()?,
        notes: Vec::new(),
    })
}

/// The facts of the content to use, as far as facts alone tell: of the longest that is not known to fork from an earlier
/// one. Needs no identity; that it can be replayed is for a restore's plan to prove.
///
/// # Errors
/// `Invalid` for a segment that can't be.
pub async fn segment_facts(engine: &Engine, archive: &Archive, segment: WalSegment) -> Result<Option<WalFacts>> {
    let mut best: Option<WalFacts> = None;
    let contents = archive.contents(segment.timeline, segment.number).iter();
    for content in contents.filter(|content| content.holder != Holder::Saved) {
        let name = archive.object_name(&segment, content)?;
        let header = read_wal_header(&engine.stores(), engine.opener().await?, &name, Some(content.bytes)).await;
        let Some(facts) = header.ok().and_then(|header| header.facts) else {
            continue;
        };
        let goes_on = |best: &WalFacts| by_length(best, &facts) == Relation::LongerTail(Longer::Second);
        if best.as_ref().is_none_or(goes_on) {
            best = Some(facts);
        }
    }
    Ok(best)
}

/// As [`compare`]; of two of which one ends where nobody can tell without an identity, the longer one goes on, as after
/// every `wal salvage` of a living server.
fn by_length(a: &WalFacts, b: &WalFacts) -> Relation {
    match compare(a, b) {
        Relation::Unknown if a.segment.valid_to < b.segment.valid_to => Relation::LongerTail(Longer::Second),
        Relation::Unknown => Relation::LongerTail(Longer::First),
        known => known,
    }
}

/// Segments that [`is_contested`].
///
/// # Errors
/// As there.
pub async fn conflicts(engine: &Engine, archive: &Archive) -> Result<Vec<WalSegment>> {
    let mut found = Vec::new();
    for (timeline, number) in archive.doubles() {
        let size = archive.segment_size;
        let segment = WalSegment { timeline, number, size };
        if is_contested(engine, archive, segment).await? {
            found.push(segment);
        }
    }
    Ok(found)
}

/// What a plan says of a segment that [`is_contested`].
pub(super) fn two_histories(segment: WalSegment) -> Error {
    Error::corrupt(format!("two different segments were archived as {segment}"))
        .detail("neither is the beginning of the other: two servers archived as one cluster")
        .hint("`pgkeep wal list` shows both; recovery is possible up to the segment before.")
}
