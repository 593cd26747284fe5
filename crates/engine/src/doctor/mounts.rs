//! Which file system a directory is on, and whether that is another machine's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File systems that are served by another machine, by the numbers of `statfs(2)`: NFS, SMB, CIFS, Ceph, AFS, 9P.
const REMOTE: &[i64] = &[
    0x6969,
    0x517B,
    0xFE53_4D42,
    0xFF53_4D42,
    0x00C3_6400,
    0x5346_414F,
    0x0102_1997,
];

/// What holds a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileSystem {
    pub device: u64,
    /// It is another machine's.
    pub remote: bool,
}

impl FileSystem {
    /// `None` where the directory can't be looked at.
    pub fn of(path: &Path) -> Option<FileSystem> {
        let device = std::fs::metadata(path).ok()?.dev();
        let kind = rustix::fs::statfs(path).ok()?.f_type;
        #[allow(
            clippy::useless_conversion,
            reason = "the type of f_type differs between architectures"
        )]
        let kind = i64::try_from(kind).unwrap_or_default();
        // Some architectures sign-extend numbers of 32 bits.
        Some(FileSystem {
            device,
            remote: REMOTE.contains(&(kind & 0xFFFF_FFFF)),
        })
    }
}

/// The directory that a `file:` URL names; `None` for other stores.
pub fn root_of(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://")?;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    Some(PathBuf::from(String::from_utf8(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_url_names_its_directory() {
        assert_eq!(
            root_of("file:///srv/my%20backups/%25"),
            Some("/srv/my backups/%".into())
        );
        assert_eq!(root_of("file:///odd%zz%2"), Some("/odd%zz%2".into()));
        assert_eq!(root_of("s3://bucket/prefix"), None);
    }

    #[test]
    fn a_local_directory_is_not_remote() {
        let here = FileSystem::of(Path::new("/proc")).unwrap();
        assert!(!here.remote);
        assert_eq!(FileSystem::of(Path::new("/nowhere/at/all")), None);
    }
}
