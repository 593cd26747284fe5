//! A lineage (one cluster under one system identifier), and the names of its backups' objects.
//!
//! Invariant: every name here is built from checked parts, and [`Lineage::of_name`] takes apart only what it built.

use std::fmt;

use pgkeep_base::{BackupId, ClusterName, Error, Result, SystemId};
use pgkeep_store::ObjectName;

/// `<cluster>/<sysid>`: what never mixes with another cluster, or with the same one before `pg_upgrade`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Lineage {
    /// The configured name.
    pub cluster: ClusterName,
    /// What `initdb` gave it.
    pub system_identifier: SystemId,
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.system_identifier)
    }
}

impl Lineage {
    /// The directory of a backup's head, manifest and packs object.
    pub fn backup_directory(&self, id: &BackupId) -> String {
        format!("backups/{self}/{id}")
    }

    /// The directory of a backup's packs.
    pub fn pack_directory(&self, id: &BackupId) -> String {
        format!("packs/{self}/{id}")
    }

    /// `backups/…/head`.
    pub fn head_name(&self, id: &BackupId) -> ObjectName {
        name(format!("{}/head", self.backup_directory(id)))
    }

    /// `backups/…/manifest`.
    pub fn manifest_name(&self, id: &BackupId) -> ObjectName {
        name(format!("{}/manifest", self.backup_directory(id)))
    }

    /// `backups/…/packs`.
    pub fn packs_name(&self, id: &BackupId) -> ObjectName {
        name(format!("{}/packs", self.backup_directory(id)))
    }

    /// `packs/…/<8 hex>`.
    pub fn pack_name(&self, id: &BackupId, number: u32) -> ObjectName {
        name(format!("{}/{number:08x}", self.pack_directory(id)))
    }

    /// Reads `<area>/<cluster>/<sysid>/<id>/<rest>`, as backups and packs are named.
    pub fn of_name<'a>(area: &str, name: &'a ObjectName) -> Option<(Lineage, BackupId, &'a str)> {
        let mut parts = name.as_str().splitn(5, '/');
        let mut next = || parts.next();
        let (found, cluster, sysid, id, rest) = (next()?, next()?, next()?, next()?, next()?);
        let system_identifier: SystemId = sysid.parse().ok()?;
        if found != area || system_identifier.to_string() != sysid {
            return None;
        }
        let lineage = Lineage {
            cluster: cluster.parse().ok()?,
            system_identifier,
        };
        Some((lineage, id.parse().ok()?, rest))
    }

    /// Takes the logical name of a pack apart: its lineage, the backup that wrote it, and its number.
    ///
    /// # Errors
    /// `Corrupt` for any other name.
    pub fn of_pack(pack: &ObjectName) -> Result<(Lineage, BackupId, u32)> {
        let not_a_pack = || Error::corrupt(format!("\"{pack}\" is not the name of a pack"));
        let (lineage, id, number) = Lineage::of_name("packs", pack).ok_or_else(not_a_pack)?;
        let hex = number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = hex.then(|| u32::from_str_radix(number, 16).ok()).flatten();
        Ok((lineage, id, number.ok_or_else(not_a_pack)?))
    }
}

fn name(text: String) -> ObjectName {
    ObjectName::new(text).expect("built from names, numbers and ids, which are all legal and short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_found_by_its_name_and_nothing_else_is() {
        let lineage = Lineage {
            cluster: "shop".parse().unwrap(),
            system_identifier: SystemId(u64::MAX),
        };
        let id: BackupId = "20261120T101512Z-0123456789".parse().unwrap();
        let pack = lineage.pack_name(&id, 0xAB);
        assert_eq!(
            pack.as_str(),
            "packs/shop/18446744073709551615/20261120T101512Z-0123456789/000000ab"
        );
        assert_eq!(Lineage::of_pack(&pack).unwrap(), (lineage.clone(), id.clone(), 0xAB));
        let head = lineage.head_name(&id);
        assert_eq!(Lineage::of_name("backups", &head), Some((lineage, id, "head")));
        let good = pack.as_str();
        for bad in [
            head.to_string(),
            good.replace("000000ab", "000000AB"),
            good.replace("000000ab", "ab"),
            format!("{good}.r1"),
            format!("{good}/x"),
            good.replace("shop", "-shop"),
            good.replace("/18", "/018"),
        ] {
            assert!(
                Lineage::of_pack(&ObjectName::new(bad.clone()).unwrap()).is_err(),
                "{bad}"
            );
        }
    }
}
