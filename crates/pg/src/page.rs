//! Pages of relations: is this one whole, and how new is it.
//!
//! The checksum is PostgreSQL's own (`src/include/storage/checksum_impl.h`): 32 interleaved FNV-1a sums, mixed with the
//! block's number, so that a page at the wrong place is wrong too.
//! Invariant: a page counts as new only if every byte of it is zero; a header that merely claims to be empty is bad.
//! A bad page read from a running server may be one that is just being written: read it again before believing it,
//! and a page whose LSN is past the start of the backup is repaired by WAL replay (full-page images).

use pgkeep_base::Lsn;

/// Bytes of a page header; also the least that a page can have.
pub const HEADER_BYTES: usize = 24;

const CHECKSUM: usize = 8;
const FLAGS: usize = 10;
const LOWER: usize = 12;
const UPPER: usize = 14;
const SPECIAL: usize = 16;
const SIZE_AND_VERSION: usize = 18;

const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;

/// The initial state of each sum: constants of the format, chosen at random by PostgreSQL.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page with data checksums turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// All zeros: allocated, never written.
    New,
    /// The checksum fits.
    Good,
    /// The checksum does not fit.
    Bad {
        /// What it should be for these bytes at this block.
        expected: u16,
        /// What the page says.
        found: u16,
    },
}

/// Checks one page of a cluster with data checksums.
///
/// `block` counts from the beginning of the whole fork: [`crate::datadir::RelSegment::first_block`] plus the position
/// in the file.
///
/// # Panics
/// If `page` is shorter than a header or no multiple of 128 bytes; every block size is.
pub fn verify_page(page: &[u8], block: u32) -> PageState {
    let is_empty = field(page, UPPER) == 0;
    if is_empty && page.iter().all(|byte| *byte == 0) {
        return PageState::New;
    }
    let found = field(page, CHECKSUM);
    let expected = checksum(page, block);
    if found == expected && !is_empty {
        return PageState::Good;
    }
    PageState::Bad { expected, found }
}

/// The bad pages of a run of whole pages that begins at `first_block`, with their block numbers.
///
/// Trailing bytes that make no whole page are not looked at.
///
/// # Panics
/// If `block_bytes` is less than 128 or no multiple of it.
pub fn bad_pages(run: &[u8], block_bytes: u32, first_block: u32) -> impl Iterator<Item = (u32, PageState)> {
    run.chunks_exact(block_bytes as usize)
        .zip(0..)
        .map(move |(page, n)| (first_block.wrapping_add(n), page))
        .map(|(block, page)| (block, verify_page(page, block)))
        .filter(|(_, state)| matches!(state, PageState::Bad { .. }))
}

/// LSN of the last WAL record that changed the page; zero for a new page and where changes are not logged.
///
/// # Panics
/// If `page` is shorter than a header.
pub fn page_lsn(page: &[u8]) -> Lsn {
    let half = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes")));
    Lsn(half(0) << 32 | half(4))
}

/// True where the header could be PostgreSQL's: all that can be said of a page without checksums.
pub fn has_sane_header(page: &[u8]) -> bool {
    const VALID_FLAGS: u16 = 0x0007;
    const LAYOUT_VERSION: u16 = 4;
    let [lower, upper, special] = [LOWER, UPPER, SPECIAL].map(|at| usize::from(field(page, at)));
    let size_and_version = usize::from(field(page, SIZE_AND_VERSION));
    let new = upper == 0 && page.iter().all(|byte| *byte == 0);
    let ordered = HEADER_BYTES <= lower && lower <= upper && upper <= special && special <= page.len();
    new || (field(page, FLAGS) & !VALID_FLAGS == 0
        && ordered
        && special.is_multiple_of(8)
        && size_and_version == (page.len() & 0xFF00) | usize::from(LAYOUT_VERSION))
}

/// The checksum that a page with these bytes has at `block`; its own checksum field does not count.
///
/// # Panics
/// As [`verify_page`].
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, rest) = page.as_chunks::<ROW_BYTES>();
    assert!(rest.is_empty() && !rows.is_empty(), "a page is a multiple of 128 bytes");
    let mut first = rows[0];
    first[CHECKSUM..CHECKSUM + 2].fill(0);
    let mut sums = OFFSETS;
    mix(&mut sums, &first);
    for row in &rows[1..] {
        mix(&mut sums, row);
    }
    // Two rounds of zeros stir the last row.
    mix(&mut sums, &[0; ROW_BYTES]);
    mix(&mut sums, &[0; ROW_BYTES]);
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    // One of 1 to 65535: zero is never a checksum.
    (folded % 65_535 + 1) as u16
}

/// One round over all lanes; the lanes are independent, so that the compiler makes vectors of them.
#[inline(always)]
fn mix(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

fn field(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        page[UPPER] = 1;
        let sum = checksum(&page, block).to_le_bytes();
        page[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        page
    }

    #[test]
    fn one_flipped_bit_anywhere_is_seen() {
        let good = page(7);
        assert_eq!(verify_page(&good, 7), PageState::Good);
        for at in (0..8192).step_by(61) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(matches!(verify_page(&bad, 7), PageState::Bad { .. }), "byte {at}");
        }
    }

    #[test]
    fn a_page_at_another_block_is_bad() {
        assert!(matches!(verify_page(&page(7), 8), PageState::Bad { .. }));
    }

    #[test]
    fn only_zeros_are_a_new_page() {
        let mut page = vec![0; 8192];
        assert_eq!(verify_page(&page, 3), PageState::New);
        page[8191] = 1;
        assert!(matches!(verify_page(&page, 3), PageState::Bad { .. }));
        let sum = checksum(&page, 3).to_le_bytes();
        page[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        assert!(
            matches!(verify_page(&page, 3), PageState::Bad { .. }),
            "pd_upper is 0 but the page is not empty: the server refuses it too"
        );
    }

    #[test]
    fn a_run_names_its_bad_blocks_in_the_whole_fork() {
        let mut run = [page(131_072), page(131_073), page(131_074)].concat();
        assert_eq!(bad_pages(&run, 8192, 131_072).count(), 0);
        run[8192 + 100] ^= 1;
        let bad: Vec<u32> = bad_pages(&run, 8192, 131_072).map(|(block, _)| block).collect();
        assert_eq!(bad, [131_073]);
    }

    #[test]
    fn the_lsn_is_stored_high_half_first() {
        let mut page = vec![0; 8192];
        page[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        assert_eq!(page_lsn(&page).to_string(), "16/B374D848");
    }
}
