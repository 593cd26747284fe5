//! The plaintext of a frame: codec, transform, dictionary, length, content (docs/format.md, section 3).
//!
//! Invariant: what [`decode`] returns has exactly the length that the frame claims, and nothing is allocated before
//! that claim was compared with a limit. Frames decode independently of each other. Sealing them is `seal`'s work.

use std::cell::RefCell;

use pgkeep_base::limits::FRAME_RAW_BYTES_MAX;
use pgkeep_base::{Error, Result};
use zstd::bulk::{Compressor, Decompressor};

/// Bytes before the content.
const PREFIX_BYTES: usize = 8;
const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;

thread_local! {
    // A context costs about as much to make as a small frame to compress.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The plaintext of a frame, ready to be sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Length of the content.
    pub raw_bytes: u32,
    plaintext: Vec<u8>,
}

impl Encoded {
    /// A frame without content, such as the one that ends a pack.
    pub fn empty() -> Encoded {
        Encoded {
            raw_bytes: 0,
            plaintext: prefix(CODEC_STORED, 0).to_vec(),
        }
    }

    /// The bytes that are sealed.
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoded({} bytes as {})", self.raw_bytes, self.plaintext.len())
    }
}

fn prefix(codec: u8, content_bytes: u32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = content_bytes.to_le_bytes();
    [codec, 0, 0, 0, a, b, c, d]
}

/// Encodes content of at most 64 MiB: with zstd at `level` if that makes it smaller, else as it is.
///
/// # Errors
/// `Internal` for longer content.
pub fn encode(content: &[u8], level: i32) -> Result<Encoded> {
    if content.len() as u64 > FRAME_RAW_BYTES_MAX {
        return Err(Error::internal(format!(
            "a frame of {} bytes would exceed 64 MiB",
            content.len()
        )));
    }
    let raw_bytes = content.len() as u32;
    let mut plaintext = Vec::with_capacity(PREFIX_BYTES + content.len());
    plaintext.extend_from_slice(&prefix(CODEC_ZSTD, raw_bytes));
    if !compress_behind(&mut plaintext, content, level)? {
        plaintext.clear();
        plaintext.extend_from_slice(&prefix(CODEC_STORED, raw_bytes));
        plaintext.extend_from_slice(content);
    }
    plaintext.shrink_to_fit();
    Ok(Encoded { raw_bytes, plaintext })
}

/// Appends compressed `content`, within the capacity that `to` has; false where it would not get smaller.
fn compress_behind(to: &mut Vec<u8>, content: &[u8], level: i32) -> Result<bool> {
    if content.is_empty() {
        return Ok(false);
    }
    let failed = |source: std::io::Error| Error::internal("zstd could not start").source(source);
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some((current, compressor)) if *current == level => compressor,
            _ => &mut slot.insert((level, Compressor::new(level).map_err(failed)?)).1,
        };
        let mut cursor = std::io::Cursor::new(&mut *to);
        cursor.set_position(PREFIX_BYTES as u64);
        // With room for content.len() bytes only, the one way to fail is not to shrink.
        let shrunk = compressor
            .compress_to_buffer(content, &mut cursor)
            .is_ok_and(|bytes| bytes < content.len());
        Ok(shrunk)
    })
}

/// Decodes the plaintext of a frame, whose content may have at most `raw_max` bytes.
///
/// # Errors
/// `Corrupt` where it is longer, damaged, or of a codec, transform or dictionary that format 1 does not have.
pub fn decode(plaintext: &[u8], raw_max: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    decode_behind(plaintext, raw_max, &mut content)?;
    Ok(content)
}

/// Like [`decode`], appending to `to`; after an error `to` is as it was.
pub fn decode_behind(plaintext: &[u8], raw_max: u64, to: &mut Vec<u8>) -> Result<()> {
    let bad = |why: String| Error::corrupt("a frame can't be decoded").detail(why);
    let Some((prefix, rest)) = plaintext.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(bad(format!("it has only {} bytes", plaintext.len())));
    };
    let [codec, transform, dictionary_low, dictionary_high, length @ ..] = *prefix;
    if transform != 0 || dictionary_low != 0 || dictionary_high != 0 {
        return Err(bad(format!(
            "transform {transform} or its dictionary is not of format 1"
        )));
    }
    let length = u32::from_le_bytes(length) as usize;
    if length as u64 > raw_max.min(FRAME_RAW_BYTES_MAX) {
        return Err(bad(format!("it claims {length} bytes, more than can be here")));
    }
    match codec {
        CODEC_STORED if rest.len() == length => to.extend_from_slice(rest),
        CODEC_STORED => return Err(bad(format!("it claims {length} bytes and has {}", rest.len()))),
        CODEC_ZSTD => decompress_behind(rest, length, to).map_err(bad)?,
        _ => return Err(bad(format!("codec {codec} is not of format 1"))),
    }
    Ok(())
}

fn decompress_behind(compressed: &[u8], length: usize, to: &mut Vec<u8>) -> Result<(), String> {
    match zstd::zstd_safe::find_frame_compressed_size(compressed) {
        Ok(bytes) if bytes == compressed.len() => {}
        _ => return Err("it does not hold exactly one zstd frame".to_owned()),
    }
    let start = to.len();
    // One byte more than claimed, so that a longer content is noticed and not just cut.
    to.reserve_exact(length + 1);
    let result = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        let mut cursor = std::io::Cursor::new(&mut *to);
        cursor.set_position(start as u64);
        decompressor.decompress_to_buffer(compressed, &mut cursor)
    });
    match result {
        Ok(bytes) if bytes == length => Ok(()),
        Ok(bytes) => {
            to.truncate(start);
            Err(format!("it claims {length} bytes and holds {bytes}"))
        }
        Err(source) => {
            to.truncate(start);
            Err(source.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_comes_back_whether_or_not_it_shrinks() {
        let noise: Vec<u8> = (0..100_000u32)
            .flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..1].to_vec())
            .collect();
        for content in [&b""[..], b"x", &[0; 1 << 20], &noise] {
            for level in [1, 3, -5] {
                let encoded = encode(content, level).unwrap();
                assert_eq!(encoded.raw_bytes as usize, content.len());
                assert!(encoded.plaintext().len() <= content.len() + PREFIX_BYTES);
                assert_eq!(decode(encoded.plaintext(), content.len() as u64).unwrap(), content);
            }
        }
        assert_eq!(encode(b"", 3).unwrap(), Encoded::empty());
        assert!(encode(&[0; 1 << 20], 1).unwrap().plaintext().len() < 1000);
    }

    #[test]
    fn a_frame_longer_than_it_may_be_is_refused_before_it_is_decoded() {
        let encoded = encode(&[0; 4096], 3).unwrap();
        assert!(decode(encoded.plaintext(), 4095).is_err());
        let mut huge = encoded.plaintext().to_vec();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&huge, u64::MAX).is_err());
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused_and_leaves_nothing() {
        for content in [&[0; 4096][..], b"stored"] {
            for claim in [content.len() - 1, content.len() + 1, 0] {
                let mut bad = encode(content, 3).unwrap().plaintext().to_vec();
                bad[4..8].copy_from_slice(&(claim as u32).to_le_bytes());
                let mut to = b"before".to_vec();
                assert!(decode_behind(&bad, 1 << 20, &mut to).is_err(), "{claim}");
                assert_eq!(to, b"before");
            }
        }
    }

    #[test]
    fn unknown_codecs_transforms_dictionaries_and_second_zstd_frames_are_refused() {
        let good = encode(&[0; 4096], 3).unwrap().plaintext().to_vec();
        for (at, value) in [(0, 2), (1, 1), (2, 1), (3, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(decode(&bad, 1 << 20).is_err(), "byte {at}");
        }
        let twice = [&good[..], &good[PREFIX_BYTES..]].concat();
        assert!(decode(&twice, 1 << 20).is_err());
        let skippable = [&good[..], &[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0]].concat();
        assert!(decode(&skippable, 1 << 20).is_err());
    }

    proptest! {
        #[test]
        fn random_plaintext_never_panics(codec in 0u8..3, mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() { *first = codec; }
            let _ = decode(&bytes, 1 << 20);
        }

        #[test]
        fn any_content_comes_back(content: Vec<u8>, level in 1i32..4) {
            prop_assert_eq!(decode(encode(&content, level).unwrap().plaintext(), 1 << 20).unwrap(), content);
        }
    }
}
