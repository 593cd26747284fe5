//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A number of bytes. Reads `512`, `64 KiB`, `1.5GiB`, `2 TB`; shows binary units.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// That many KiB.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }
    /// That many MiB.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }
}

const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1023.95 && unit < BINARY.len() - 1 {
            value /= 1024.0;
            unit += 1;
        }
        let text = if unit == 0 {
            format!("{} B", self.0)
        } else {
            format!("{value:.1} {}", BINARY[unit])
        };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<ByteSize> {
        let bad = || {
            Error::invalid(format!("\"{text}\" is not a size"))
                .hint("Write for example `64 MiB`, `2 TB` or a number of bytes.")
        };
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let number: f64 = trimmed[..split].parse().map_err(|_| bad())?;
        let factor: f64 = match trimmed[split..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1_048_576.0,
            "g" | "gib" => 1_073_741_824.0,
            "t" | "tib" => 1_099_511_627_776.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            _ => return Err(bad()),
        };
        let bytes = number * factor;
        if bytes < 9e18 {
            Ok(ByteSize(bytes as u64))
        } else {
            Err(bad())
        }
    }
}
crate::ids::serde_as_text!(ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("512", 512),
            ("64 KiB", 65536),
            ("1.5GiB", 1_610_612_736),
            ("2 TB", 2_000_000_000_000),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "x", "1 XB", "-1", "1e300"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(1_610_612_736).to_string(), "1.5 GiB");
    }
}
