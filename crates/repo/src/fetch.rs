//! Finds a good copy of an object: in all places, and among its alternates (docs/format.md, section 1).
//!
//! Invariant: [`Unread::Absent`] is said only when every place has proven it; one place that doesn't answer makes it
//! [`Unread::Unknown`]. Recovery depends on this difference (PostgreSQL takes "absent" for the end of the archive).

use std::sync::Arc;

use bytes::Bytes;
use pgkeep_base::{Error, ErrorKind, Result};
use pgkeep_store::{ObjectName, Store};

use crate::names::{ALTERNATES_MAX, alternate};
use crate::open::{Header, HeaderRead, Opener};
use crate::rewrap::Learning;
use crate::seal::Kind;

/// What is read first of an object of which only the header is wanted.
const HEADER_READ_BYTES: u64 = 8 << 10;

/// Why one copy could not be had.
#[derive(Debug)]
pub struct Failure {
    /// The URL of the place.
    pub place: String,
    /// Under which name: the object's, or that of an alternate.
    pub name: ObjectName,
    /// What went wrong.
    pub error: Error,
}

/// Why an object can't be had, from the most to the least certain answer.
#[derive(Debug)]
pub enum Unread {
    /// Every place proved that there is no such object (or there are no places).
    Absent,
    /// No place has a good copy: at least one has a bad one, and all answered.
    Bad(Vec<Failure>),
    /// A copy is there and whole, but its signer is not trusted, no identity opens it, or it is of a newer format.
    Refused(Vec<Failure>),
    /// At least one place did not answer or did not let us look, so that nobody can tell.
    Unknown(Vec<Failure>),
}

impl Unread {
    /// Judges from all failures.
    pub fn from_failures(failures: Vec<Failure>) -> Unread {
        let any = |kinds: &[ErrorKind]| failures.iter().any(|failure| kinds.contains(&failure.error.kind()));
        if failures
            .iter()
            .all(|failure| failure.error.kind() == ErrorKind::NotFound)
        {
            Unread::Absent
        } else if any(&[ErrorKind::Refused, ErrorKind::Unsupported]) {
            Unread::Refused(failures)
        } else if failures
            .iter()
            .all(|f| matches!(f.error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt))
        {
            Unread::Bad(failures)
        } else {
            Unread::Unknown(failures)
        }
    }

    /// As an error about `name`: `NotFound`, `Corrupt`, `Refused`, or `Denied` or `Unavailable`.
    pub fn into_error(self, name: &ObjectName) -> Error {
        let (message, kinds, failures) = match self {
            Unread::Absent => return Error::not_found(format!("{name} does not exist")),
            Unread::Bad(failures) => (
                format!("no good copy of {name} exists"),
                vec![ErrorKind::Corrupt],
                failures,
            ),
            Unread::Refused(failures) => (
                format!("{name} can't be used"),
                vec![ErrorKind::Refused, ErrorKind::Unsupported],
                failures,
            ),
            Unread::Unknown(failures) => {
                let kinds = vec![ErrorKind::Denied, ErrorKind::Unavailable];
                (
                    format!("{name} could not be read, and may or may not exist"),
                    kinds,
                    failures,
                )
            }
        };
        let decisive = |failure: &Failure| {
            let kind = failure.error.kind();
            (!kinds.contains(&kind), kind == ErrorKind::NotFound)
        };
        let all: Vec<String> = failures.iter().map(Failure::to_string).collect();
        let Some(first) = failures.into_iter().min_by_key(decisive) else {
            return Error::internal(message);
        };
        let kind = first.error.kind();
        if all.len() == 1 {
            return Error::new(kind, message).source(first.error.during(format!("read {}", first.place)));
        }
        let error = Error::new(kind, message).detail(all.join("; "));
        match first.error.hint_text() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}: {}", self.name, self.place, self.error.message())?;
        self.error
            .detail_text()
            .map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

/// Reads an object of the kind `want`: from the first place that has a good copy under its name, then among alternates.
///
/// Returns the header and the content of every frame. An object longer than `bytes_max` counts as bad.
pub async fn read_object(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    want: Kind,
    bytes_max: u64,
) -> Result<(Header, Vec<Vec<u8>>), Unread> {
    open_copy(stores, opener, name, bytes_max, |bytes| {
        opener.open_object(name, &bytes, want)
    })
    .await
}

/// The first whole copy of `name` that `check`, which opens it, takes. Where no identity fits, rewraps are asked for
/// another wrapping of its key, and the copies are looked at again.
pub async fn open_copy<T>(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    bytes_max: u64,
    mut check: impl FnMut(Bytes) -> Result<T>,
) -> Result<T, Unread> {
    let mut learning = Learning::new(stores, opener, name);
    loop {
        let why = match find_copy(stores, name, bytes_max, &mut check).await {
            Err(Unread::Refused(why)) => why,
            found => return found,
        };
        if !learning.more().await {
            let failures = learning.failures();
            return Err(Unread::from_failures(why.into_iter().chain(failures).collect()));
        }
    }
}

/// Reads the header alone, from the first place that has a good one: one ranged read, if `object_bytes` is known from a
/// listing, else one request more to learn it.
pub async fn read_header(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    object_bytes: Option<u64>,
) -> Result<Header, Unread> {
    read_header_with(stores, opener, name, object_bytes, |_, header| Ok(header.clone())).await
}

/// As [`read_header`], and makes of it what `parse` does, given the name of the copy.
pub(crate) async fn read_header_with<T>(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    object_bytes: Option<u64>,
    parse: impl Fn(&ObjectName, &Header) -> Result<T>,
) -> Result<T, Unread> {
    let mut search = Search::new(stores, name);
    while let Some((store, copy)) = search.next_copy() {
        let known = if copy == *name { object_bytes } else { None };
        let header = header_in(store.as_ref(), opener, &copy, known).await;
        match header.and_then(|header| parse(&copy, &header)) {
            Ok(found) => return Ok(found),
            Err(error) => search.failed(error),
        }
    }
    Err(search.give_up())
}

async fn header_in(store: &dyn Store, opener: &Opener, copy: &ObjectName, bytes: Option<u64>) -> Result<Box<Header>> {
    let total = match bytes {
        Some(bytes) => bytes,
        None => store.stat(copy).await?.bytes,
    };
    let mut wanted = HEADER_READ_BYTES;
    loop {
        let first_bytes = store.read_range(copy, 0..wanted.min(total)).await?;
        match opener.header(copy, &first_bytes)? {
            HeaderRead::Complete(header) => return Ok(header),
            HeaderRead::NeedMore(more) if more > wanted && more <= total => wanted = more,
            HeaderRead::NeedMore(_) => return Err(Error::corrupt(format!("{copy} ends within its header"))),
        }
    }
}

/// Reads a signed document in the same way.
pub async fn read_document(
    stores: &[Arc<dyn Store>],
    opener: &Opener,
    name: &ObjectName,
    bytes_max: u64,
) -> Result<crate::sign::Verified, Unread> {
    find_copy(stores, name, bytes_max, |bytes| opener.document(name, &bytes)).await
}

/// The first whole copy of `name` that `check` takes.
pub async fn find_copy<T>(
    stores: &[Arc<dyn Store>],
    name: &ObjectName,
    bytes_max: u64,
    mut check: impl FnMut(Bytes) -> Result<T>,
) -> Result<T, Unread> {
    let mut search = Search::new(stores, name);
    while let Some((store, copy)) = search.next_copy() {
        match store.read(&copy, bytes_max).await.and_then(&mut check) {
            Ok(found) => return Ok(found),
            Err(error) => search.failed(error),
        }
    }
    Err(search.give_up())
}

/// A store, and the number of the alternate in it; 0 is the object itself.
type Candidate<'a> = (&'a Arc<dyn Store>, u32);

/// The copies to look at, one after the other: the name in each place, then the alternates.
pub(crate) struct Search<'a> {
    name: &'a ObjectName,
    /// What to look at next; the last is the next.
    ahead: Vec<Candidate<'a>>,
    alternates: Vec<Candidate<'a>>,
    at: Option<Candidate<'a>>,
    failures: Vec<Failure>,
}

impl<'a> Search<'a> {
    pub fn new(stores: &'a [Arc<dyn Store>], name: &'a ObjectName) -> Search<'a> {
        Search {
            name,
            ahead: stores.iter().rev().map(|store| (store, 0)).collect(),
            alternates: Vec::new(),
            at: None,
            failures: Vec::new(),
        }
    }

    /// The place to look in, and under which name.
    pub fn next_copy(&mut self) -> Option<(&'a Arc<dyn Store>, ObjectName)> {
        if self.ahead.is_empty() {
            self.ahead = self.alternates.drain(..).rev().collect();
        }
        self.at = self.ahead.pop();
        self.at.map(|(store, number)| (store, self.name_of(number)))
    }

    fn name_of(&self, number: u32) -> ObjectName {
        match number {
            0 => self.name.clone(),
            number => alternate(self.name, number).expect("it had room when it was put ahead"),
        }
    }

    /// Says that the copy which `next_copy` gave can't be used.
    pub fn failed(&mut self, error: Error) {
        let (store, number) = self.at.expect("a failure follows a look");
        if number == 0 {
            let numbers =
                (1..=alternates_worth_trying(&error)).filter(|number| alternate(self.name, *number).is_some());
            self.alternates.extend(numbers.map(|number| (store, number)));
        } else if error.kind() == ErrorKind::NotFound {
            return;
        }
        let (place, name) = (store.url().to_owned(), self.name_of(number));
        self.failures.push(Failure { place, name, error });
    }

    /// What all failures together mean.
    pub fn give_up(self) -> Unread {
        Unread::from_failures(self.failures)
    }
}

/// How many alternates to try in a place after this failure: none where the place did not answer.
///
/// Healers number alternates without holes and only beside an object that is bad; where the object is missing or closed
/// to us altogether, one look tells whether that is so for just the bad one. A disk that can't read one file may well
/// read another.
fn alternates_worth_trying(error: &Error) -> u32 {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Refused | ErrorKind::Io => ALTERNATES_MAX,
        ErrorKind::NotFound | ErrorKind::Denied => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
