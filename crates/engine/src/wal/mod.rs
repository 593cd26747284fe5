//! The WAL archive: taking segments in, giving them out, and saying what is there.
//!
//! Invariants: `push` succeeds only when every required place has the bytes durably; `fetch` hands PostgreSQL only
//! verified content, and says "end of archive" only where that can't lose data: `answer` has the table.

pub mod answer;
mod content;
mod deliver;
pub mod fetch;
pub mod lineage;
pub mod list;
mod lookup;
pub mod map;
mod patience;
pub mod push;

pub(crate) use content::Content;
pub(crate) use push::FIRST_PAGE_BYTES;
