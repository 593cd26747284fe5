//! Leases: a backup in progress tells the keeper's prune to leave its packs alone (docs/format.md, section 9).
//!
//! Invariant: a lease ends by the time in its name, so that nobody has to remove it; a writer whose run is older gives
//! up. Leases exclude nobody: backups exclude each other on the database host.

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgkeep_base::ids::parse_compact_time;
use pgkeep_base::{BackupId, Error, Result};
use pgkeep_store::{ObjectName, Payload, Store};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::names;
use crate::open::Opener;
use crate::seal::Sealer;

/// How long a backup may take.
pub const LEASE_DURATION: SignedDuration = SignedDuration::from_hours(48);
/// The largest lease that is read.
pub const LEASE_BYTES_MAX: u64 = 1 << 20;

/// What a lease says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The backup whose packs it covers.
    pub id: BackupId,
    /// The host that takes it.
    pub host: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// A lease as its name tells.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LeaseName {
    /// Whose backup it is.
    pub lineage: Lineage,
    /// The backup.
    pub id: BackupId,
    /// When the lease ends.
    pub expires_at: Timestamp,
}

impl LeaseName {
    /// The name of its object.
    pub fn object_name(&self) -> ObjectName {
        let expiry = self.expires_at.strftime("%Y%m%dT%H%M%SZ");
        ObjectName::new(format!("leases/{}/{}-{expiry}", self.lineage, self.id)).expect("built from legal names")
    }

    /// Reads a logical name.
    pub fn parse(name: &ObjectName) -> Option<LeaseName> {
        let mut segments = name.as_str().strip_prefix("leases/")?.split('/');
        let (cluster, sysid, last) = (segments.next()?, segments.next()?, segments.next()?);
        let (id, expiry) = last.rsplit_once('-')?;
        let lineage = Lineage {
            cluster: cluster.parse().ok()?,
            system_identifier: sysid.parse().ok()?,
        };
        let lease = LeaseName {
            lineage,
            id: id.parse().ok()?,
            expires_at: parse_compact_time(expiry)?,
        };
        (segments.next().is_none() && lease.object_name() == *name).then_some(lease)
    }

    /// The directory that it covers.
    pub fn pack_directory(&self) -> String {
        self.lineage.pack_directory(&self.id)
    }
}

/// A lease for a backup that begins at the time in its id.
pub fn seal_lease(sealer: &Sealer, lineage: &Lineage, id: &BackupId, host: &str) -> Result<(LeaseName, Payload)> {
    let started_at = id.time();
    let expires_at = started_at
        .checked_add(LEASE_DURATION)
        .map_err(|source| Error::internal("a lease would end after the end of time").source(source))?;
    let name = LeaseName {
        lineage: lineage.clone(),
        id: id.clone(),
        expires_at,
    };
    let lease = Lease {
        id: id.clone(),
        host: host.to_owned(),
        started_at,
    };
    let payload = Payload::from(sealer.sign(&name.object_name(), &lease)?);
    Ok((name, payload))
}

/// Reads the bytes of a lease.
///
/// # Errors
/// As [`Opener::document`]; `Corrupt` where it covers another backup than its name says, or for longer than 48 hours.
pub fn open_lease(opener: &Opener, name: &LeaseName, bytes: &[u8]) -> Result<Lease> {
    let object = name.object_name();
    let lease: Lease = opener.document(&object, bytes)?.parse()?;
    if lease.id != name.id || name.expires_at.duration_since(lease.started_at) > LEASE_DURATION {
        return Err(Error::corrupt(format!("{object} does not say what its name says")));
    }
    Ok(lease)
}

/// The leases of a lineage in a place, live or not, sorted. Their signatures are not looked at.
pub async fn leases(store: &dyn Store, lineage: &Lineage) -> Result<Vec<LeaseName>> {
    let directory = format!("leases/{lineage}");
    let mut found: Vec<LeaseName> = Vec::new();
    let mut listed = store.list(&directory, None);
    while let Some(meta) = listed.try_next().await? {
        found.extend(LeaseName::parse(&names::logical(&meta.name)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Place, Repository, name, run};

    fn lineage() -> Lineage {
        Lineage {
            cluster: "shop".parse().unwrap(),
            system_identifier: pgkeep_base::SystemId(7),
        }
    }

    #[test]
    fn a_lease_covers_its_backup_for_48_hours_and_says_so_in_its_name() {
        let repository = Repository::new(false);
        let id: BackupId = "20261120T101512Z-0123456789".parse().unwrap();
        let (lease, payload) = seal_lease(&repository.sealer(), &lineage(), &id, "db1").unwrap();
        let object = lease.object_name();
        assert_eq!(
            object.as_str(),
            "leases/shop/7/20261120T101512Z-0123456789-20261122T101512Z"
        );
        assert_eq!(lease.pack_directory(), "packs/shop/7/20261120T101512Z-0123456789");
        let place = Place::new();
        run(place.put(&object, payload.clone()));
        run(place.put(&name("leases/shop/7/odd"), "x"));
        assert_eq!(
            run(leases(place.as_ref(), &lineage())).unwrap(),
            std::slice::from_ref(&lease)
        );
        let read = open_lease(&repository.opener(), &lease, &payload.parts().concat()).unwrap();
        assert_eq!(
            (read.id, read.host.as_str(), read.started_at),
            (id.clone(), "db1", id.time())
        );
    }

    #[test]
    fn a_lease_under_a_later_name_covers_nothing() {
        let repository = Repository::new(false);
        let id = BackupId::new("2026-11-20T10:15:12Z".parse().unwrap());
        let (lease, payload) = seal_lease(&repository.sealer(), &lineage(), &id, "db1").unwrap();
        let longer = LeaseName {
            expires_at: "2027-11-20T10:15:12Z".parse().unwrap(),
            ..lease
        };
        assert!(open_lease(&repository.opener(), &longer, &payload.parts().concat()).is_err());
        // Nor does one that its own writer signed under that name.
        let payload = repository.sealer().sign(
            &longer.object_name(),
            &Lease {
                id: id.clone(),
                host: "db1".to_owned(),
                started_at: id.time(),
            },
        );
        assert!(open_lease(&repository.opener(), &longer, &payload.unwrap()).is_err());
    }

    #[test]
    fn only_names_of_leases_parse() {
        for odd in [
            "leases/shop/7/20261120T101512Z-0123456789",
            "leases/shop/07/20261120T101512Z-0123456789-20261122T101512Z",
            "leases/shop/7/20261120T101512Z-0123456789-20261322T101512Z",
            "leases/shop/7/x/20261120T101512Z-0123456789-20261122T101512Z",
            "control/genesis",
        ] {
            assert_eq!(LeaseName::parse(&name(odd)), None, "{odd}");
        }
    }
}
