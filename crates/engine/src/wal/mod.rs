//! The WAL archive: taking segments in, giving them out, and saying what is there.
//!
//! Invariants: `push` succeeds only when every required place has the bytes durably; `fetch` hands PostgreSQL only
//! verified content, and says "end of archive" only where that can't lose data: `answer` has the table. `salvage` brings
//! in what a dead server's archiver never pushed.

mod aim;
pub mod answer;
mod content;
mod deliver;
pub mod fetch;
mod inspect;
pub mod lineage;
pub mod list;
pub mod local;
mod lookup;
pub mod map;
mod patience;
pub mod push;
pub mod salvage;
mod store;
mod there;

pub(crate) use content::Content;
pub(crate) use inspect::FIRST_PAGE_BYTES;
