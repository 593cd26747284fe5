//! Names of WAL objects: `wal/<cluster>/<sysid>/<TLI>/<file>-<hash>`, and `.p<4 hex>` for parts.
//!
//! Invariant: a name that parses is exactly the one that would be made from what it parses to.

use pgkeep_base::{ClusterName, Error, Result, SystemId, TimelineId, WalFile};
use pgkeep_store::ObjectName;

const HASH_DIGITS: usize = 32;

/// What the name of a WAL object says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WalObjectName {
    /// Whose WAL it is.
    pub cluster: ClusterName,
    /// Of which system identifier.
    pub sysid: SystemId,
    /// The timeline that the file's name begins with.
    pub timeline: TimelineId,
    /// The archived file.
    pub file: WalFile,
    /// 32 digits: hash of its content under the naming key.
    pub hash: String,
    /// The number of a part, `None` for the object itself.
    pub part: Option<u16>,
}

/// The name of the object of a file with that hash.
///
/// # Errors
/// `Invalid` for a file of timeline 0, which PostgreSQL never writes.
pub fn object_name(cluster: &ClusterName, sysid: SystemId, file: &WalFile, hash: &str) -> Result<ObjectName> {
    let timeline = file
        .timeline()
        .ok_or_else(|| Error::invalid(format!("{file} is of timeline 0")))?;
    ObjectName::new(format!("wal/{cluster}/{sysid}/{}/{file}-{hash}", timeline.hex()))
}

/// The name of the `number`th part of an object.
pub fn part_name(object: &ObjectName, number: u16) -> ObjectName {
    ObjectName::new(format!("{object}.p{number:04x}")).expect("names of WAL objects leave room for a suffix")
}

/// Reads a logical name; `None` for everything that is not the name of a WAL object or a part of one.
pub fn parse_object_name(name: &ObjectName) -> Option<WalObjectName> {
    let mut segments = name.as_str().split('/');
    let (root, cluster, sysid) = (segments.next()?, segments.next()?, segments.next()?);
    let (timeline, file_name) = (segments.next()?, segments.next()?);
    if root != "wal" || segments.next().is_some() {
        return None;
    }
    let (file, hash, part) = parse_file_name(file_name)?;
    let timeline = TimelineId::from_hex(timeline).filter(|timeline| file.timeline() == Some(*timeline))?;
    let system_id: SystemId = sysid.parse().ok()?;
    let canonical = system_id.to_string() == sysid;
    canonical.then_some(WalObjectName {
        cluster: cluster.parse().ok()?,
        sysid: system_id,
        timeline,
        file,
        hash: hash.to_owned(),
        part,
    })
}

fn parse_file_name(file_name: &str) -> Option<(WalFile, &str, Option<u16>)> {
    let (file, rest) = file_name.rsplit_once('-')?;
    let (hash, suffix) = rest.split_at_checked(HASH_DIGITS)?;
    let lower_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let part = match suffix {
        "" => None,
        _ => {
            let digits = suffix
                .strip_prefix(".p")
                .filter(|digits| digits.len() == 4 && lower_hex(digits))?;
            Some(u16::from_str_radix(digits, 16).ok()?)
        }
    };
    lower_hex(hash).then_some(())?;
    Some((WalFile::parse(file)?, hash, part))
}
