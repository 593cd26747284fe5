//! The named bounds on memory, queues and retries. None grows with the size of a database.

use crate::size::ByteSize;

/// Raw bytes of one chunk of a file: what is compressed, sealed and hashed as a unit.
pub const CHUNK_BYTES_MAX: u64 = ByteSize::mib(1).0;
/// A pack is closed once its body has reached this size.
pub const PACK_BYTES_TARGET: u64 = ByteSize::mib(32).0;
/// A pack is closed, too, once so many bytes of what is remembered about files wait for it: that waits in memory.
pub const PACK_REMEMBERED_BYTES: u64 = ByteSize::mib(4).0;
/// Packs that may be uploading at once, over all places.
pub const PACKS_IN_FLIGHT: usize = 2;
/// Raw bytes of one manifest block.
pub const MANIFEST_BLOCK_BYTES_TARGET: usize = 256 << 10;
/// The largest raw size that any frame may claim.
pub const FRAME_RAW_BYTES_MAX: u64 = ByteSize::mib(64).0;
/// The largest header of a sealed object, and the largest signed document.
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// The largest head of a backup.
pub const HEAD_BYTES_MAX: u64 = ByteSize::mib(16).0;
/// WAL segments larger than this are stored in parts of this size.
pub const WAL_PART_BYTES: u64 = ByteSize::mib(64).0;
/// Names that one directory listing may hold in memory, in bytes.
pub const DIRECTORY_BYTES_MAX: u64 = ByteSize::mib(192).0;
/// Requests that a listing or fact-gathering command has in flight.
pub const REQUESTS_IN_FLIGHT: usize = 32;
/// Segments of a way that are opened ahead of the walk through its WAL; of each up to three contents may be compared.
pub const SEGMENTS_IN_FLIGHT: usize = 4;
/// The leading bytes of one WAL record that are kept while it is put together; the rest is only checksummed.
pub const WAL_RECORD_BYTES_KEPT: usize = 1 << 20;
