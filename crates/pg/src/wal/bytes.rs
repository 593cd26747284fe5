//! Little-endian numbers out of a slice, `None` where it is too short.
//!
//! PostgreSQL writes WAL in the byte order of its machine; pgkeep supports little-endian machines only, and a page
//! from another one is named as such by `page`.

macro_rules! readers {
    ($($name:ident => $type:ty),*) => {
        $( #[inline]
        pub(super) fn $name(bytes: &[u8], at: usize) -> Option<$type> {
            Some(<$type>::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        } )*
    };
}

readers!(u8_at => u8, u16_at => u16, u32_at => u32, u64_at => u64, i32_at => i32, i64_at => i64);

/// `MAXALIGN`: the next multiple of 8.
#[inline]
pub(super) fn max_align(bytes: u64) -> u64 {
    (bytes + 7) & !7
}
