//! Claims about control objects: their names, and what they say.

use jiff::Timestamp;

use super::*;
use crate::test_support::name;

#[test]
fn names_of_control_objects_read_back() {
    let id = BackupId::new(Timestamp::UNIX_EPOCH);
    for (kind, word) in KINDS {
        let name = control_name(&id, kind);
        assert!(name.as_str().ends_with(word));
        assert_eq!(parse_control_name(&name), Some((id.clone(), kind)));
    }
    for odd in [
        "control/genesis",
        "control/x-signer",
        "leases/x-signer",
        &format!("control/{id}-odd"),
    ] {
        assert_eq!(parse_control_name(&name(odd)), None, "{odd}");
    }
}
