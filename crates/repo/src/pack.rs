//! Packs.
use pgkeep_store::ObjectName;
/// pack?
pub fn is_pack_name(name: &ObjectName) -> bool {
    let mut parts = name.as_str().split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (packs, cluster, sysid, id, number) = (next(), next(), next(), next(), next());
    packs == "packs"
        && cluster.parse::<pgkeep_base::ClusterName>().is_ok()
        && sysid.parse::<pgkeep_base::SystemId>().is_ok()
        && id.parse::<pgkeep_base::BackupId>().is_ok()
        && number.len() == 8
        && number.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && parts.next().is_none()
}
