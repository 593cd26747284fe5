//! Targets: what comes out of a repository, and the files that its owner keeps.

use pgkeep_base::limits::CHUNK_BYTES_MAX;
use pgkeep_base::{BackupId, ClusterName, Result, SystemId, WalFile};
use pgkeep_repo::control::recipients::RecipientsChange;
use pgkeep_repo::control::signers::SignerChange;
use pgkeep_repo::control::{control_name, parse_control_name};
use pgkeep_repo::frame;
use pgkeep_repo::genesis::{Genesis, genesis_name, open_naming_key};
use pgkeep_repo::head::Head;
use pgkeep_repo::keys::{parse_identity_file, unwrap_key};
use pgkeep_repo::lease::{LeaseName, open_lease};
use pgkeep_repo::lineage::Lineage;
use pgkeep_repo::manifest::{
    Block, BlockBuilder, Content, Entry, EntryKind, FileSpan, ManifestIndex, OrderCheck, parse_block,
};
use pgkeep_repo::names::{alternate, logical, split_alternate};
use pgkeep_repo::open::HeaderRead;
use pgkeep_repo::packlist::PackList;
use pgkeep_repo::paths::DataPath;
use pgkeep_repo::repofile::RepositoryFile;
use pgkeep_repo::rewrap::Rewrap;
use pgkeep_repo::seal::Kind;
use pgkeep_repo::wal::{Link, Relation, WalHeader, compare, link, object_name, parse_object_name, parse_wal_header};
use pgkeep_store::ObjectName;

use crate::signed::{self, members, name, opener};

const WAL_HASH: &str = "00112233445566778899aabbccddeeff";
const LEASE: &str = "leases/shop/7428165372412345678/20261120T081352Z-gea42gjken-20261122T081352Z";

/// A signed document, as it lies in a place.
pub fn document(bytes: &[u8]) -> bool {
    opener().document(&name("control/a-document"), bytes).is_ok()
}

/// An object, as it lies in a place.
pub fn object(bytes: &[u8]) -> bool {
    opener().open_object(&name("an/object"), bytes, Kind::Pack).is_ok()
}

/// The frames of an object whose header is good.
pub fn body(bytes: &[u8]) -> bool {
    let object = signed::object(&name("an/object"), Kind::Pack.as_str(), Default::default(), bytes);
    opener().open_object(&name("an/object"), &object, Kind::Pack).is_ok()
}

/// The plaintext of a frame.
pub fn frame(bytes: &[u8]) -> bool {
    match frame::decode(bytes, CHUNK_BYTES_MAX) {
        Ok(content) => {
            assert!(
                content.len() as u64 <= CHUNK_BYTES_MAX,
                "a frame of {} bytes",
                content.len()
            );
            true
        }
        Err(_) => false,
    }
}

pub fn head(bytes: &[u8]) -> bool {
    let Some(members) = members(bytes) else { return false };
    let Ok(said) = serde_json::from_value::<Head>(members.clone().into()) else {
        return false;
    };
    let signed = signed::document(&said.name(), &members);
    let Ok(read) = Head::read(opener(), &said.name(), &signed) else {
        return false;
    };
    let again = read.head.sign(signed::sealer()).expect("what was read can be written");
    let reread = Head::read(opener(), &again.name, &again.bytes).expect("what was written can be read");
    assert_eq!(read.head, reread.head);
    true
}

/// A block that is all of a manifest.
pub fn manifest_block(bytes: &[u8]) -> bool {
    let Ok(entries) = parse_block(bytes) else { return false };
    let mut order = OrderCheck::default();
    let good = entries.iter().all(|entry| order.entry(entry).is_ok()) && order.finish(&end()).is_ok();
    if good {
        entries.iter().for_each(|entry| stays_inside(&entry.path));
        assert_eq!(rewritten(&entries), entries, "a block does not read back as itself");
    }
    good
}

/// The end that every manifest has.
fn end() -> [Entry; 2] {
    ["backup_label", "global/pg_control"].map(|path| Entry {
        path: DataPath::new(path).expect("a path"),
        kind: EntryKind::File(FileSpan {
            bytes: 0,
            at: 0,
            content: Content::Inline(Vec::new()),
            bad_pages: Vec::new(),
        }),
        mode: 0o600,
        owner: None,
        group: None,
        mtime: 0,
    })
}

/// The entries of the blocks that a backup of these entries would write.
fn rewritten(entries: &[Entry]) -> Vec<Entry> {
    let blocks = blocks(entries).expect("what was read can be written");
    let entries = blocks
        .iter()
        .map(|block| parse_block(&block.json).expect("what was written can be read"));
    entries.flatten().collect()
}

/// The blocks of a manifest of these entries.
pub fn blocks(entries: &[Entry]) -> Result<Vec<Block>> {
    let mut builder = BlockBuilder::new();
    let mut blocks = Vec::new();
    for entry in entries {
        blocks.extend(builder.push(entry)?);
    }
    blocks.extend(builder.finish(&end())?);
    Ok(blocks)
}

/// No path leads out of the data directory.
pub(crate) fn stays_inside(path: &DataPath) {
    let path = path.as_path();
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    assert!(path.components().all(plain), "{path:?}");
}

/// The documents of a manifest object, one to a line.
pub fn manifest_index(bytes: &[u8]) -> bool {
    let documents: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let Ok(index) = ManifestIndex::from_documents(&documents) else {
        return false;
    };
    index.last.iter().for_each(|entry| stays_inside(&entry.path));
    let written = index.to_documents().expect("what was read can be written");
    assert_eq!(ManifestIndex::from_documents(&written).ok(), Some(index));
    true
}

pub fn packs(bytes: &[u8]) -> bool {
    let Ok(list) = PackList::from_frames(&[bytes]) else {
        return false;
    };
    let _ = list.live_bytes();
    list.packs().iter().for_each(|pack| {
        let _ = (pack.is_mostly_dead(), pack.object_offset(1 << 40), pack.seal());
    });
    let name = name("backups/shop/7428165372412345678/20261120T081352Z-gea42gjken/packs");
    let object = list
        .to_object(signed::sealer(), &name)
        .expect("what was read can be written");
    let opened = opener().open_object(&name, &object.to_bytes(), Kind::Packs);
    let (_, frames) = opened.expect("what was written can be read");
    assert_eq!(PackList::from_frames(&frames).ok(), Some(list));
    true
}

/// The header of a WAL object, with the facts in it; two lines are two objects of the same segment.
pub fn wal_header(bytes: &[u8]) -> bool {
    let headers = bytes.split(|byte| *byte == b'\n').take(2).filter_map(one_wal_header);
    let headers: Vec<_> = headers.collect();
    let facts: Vec<_> = headers.iter().filter_map(|header| header.facts.as_ref()).collect();
    if let [first, .., last] = facts[..] {
        let (there, back) = (compare(first, last), compare(last, first));
        assert_eq!(there == Relation::Same, back == Relation::Same);
        assert_eq!(there == Relation::Fork, back == Relation::Fork);
        let _: Link = link(&first.segment, &last.segment);
        assert_eq!(compare(first, first), Relation::Same);
    }
    !headers.is_empty()
}

fn one_wal_header(line: &[u8]) -> Option<WalHeader> {
    let members = members(line)?;
    let file = WalFile::parse(members.get("file")?.as_str()?)?;
    let cluster = "shop".parse().expect("the name of a cluster");
    let name = object_name(&cluster, SystemId(7_428_165_372_412_345_678), &file, WAL_HASH).ok()?;
    let object = signed::object(&name, Kind::Wal.as_str(), members, &[]);
    match opener().header(&name, &object).ok()? {
        HeaderRead::Complete(header) => parse_wal_header(&name, &header).ok(),
        HeaderRead::NeedMore(_) => panic!("the whole object was given"),
    }
}

/// The header on the first line, the content behind it.
pub fn genesis(bytes: &[u8]) -> bool {
    let (header, content) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    let Some(members) = members(header) else { return false };
    let frame = frame::encode(content.get(1..).unwrap_or_default(), 1).expect("a short frame");
    let mut builder = signed::sealer()
        .begin(&genesis_name(), Kind::Genesis)
        .expect("an object");
    let _ = builder.push(&frame);
    let Ok(object) = builder.finish(members, None) else {
        return false;
    };
    let read = Genesis::read(&object.to_bytes(), signed::trust()).is_ok();
    read && open_naming_key(opener(), &object.to_bytes()).is_ok()
}

/// A statement that stands in a control object or a lease.
pub fn control(bytes: &[u8]) -> bool {
    let Some(members) = members(bytes) else { return false };
    let at = control_name(
        &BackupId::new(jiff::Timestamp::UNIX_EPOCH),
        pgkeep_repo::control::ControlKind::Signer,
    );
    let verified = opener().document(&at, &signed::document(&at, &members));
    let verified = verified.expect("it is signed");
    let lease = LeaseName::parse(&name(LEASE)).expect("the name of a lease");
    let leased = open_lease(opener(), &lease, &signed::document(&name(LEASE), &members)).is_ok();
    let recipients = RecipientsChange::read(&at, verified.clone()).ok();
    let recipients = recipients.inspect(|change| {
        let _ = (change.sorted(), change.naming_key(&[]).is_ok());
    });
    leased || recipients.is_some() || verified.parse::<SignerChange>().is_ok()
}

/// What a rewrap object says; and the same bytes as the beginning of one that nobody has verified.
pub fn rewrap(bytes: &[u8]) -> bool {
    let hinted = Rewrap::covered(bytes).is_some();
    let Some(members) = members(bytes) else { return hinted };
    let at = control_name(
        &BackupId::new(jiff::Timestamp::UNIX_EPOCH),
        pgkeep_repo::control::ControlKind::Rewrap,
    );
    let signed = signed::document(&at, &members);
    let verified = opener().document(&at, &signed).expect("it is signed");
    let Ok(rewrap) = Rewrap::read(&at, &verified) else {
        return hinted;
    };
    let hint = Rewrap::covered(&signed);
    assert!(hint.is_none_or(|hint| hint == rewrap.covers), "the hint is another");
    for wrapped in rewrap.keys.values().flatten().map(|(_, wrapped)| wrapped) {
        assert!(unwrap_key(wrapped, &[]).is_err(), "a key for nobody");
    }
    let Ok(serde_json::Value::Object(again)) = serde_json::to_value(&rewrap) else {
        panic!("what was read can't be written");
    };
    let again = signed::document(&at, &again);
    let reread = Rewrap::read(&at, &opener().document(&at, &again).expect("it is signed"));
    assert_eq!(reread.ok().as_ref(), Some(&rewrap));
    assert_eq!(
        Rewrap::covered(&again),
        Some(rewrap.covers),
        "it begins with what it covers"
    );
    true
}

pub fn repository_file(bytes: &[u8]) -> bool {
    let read = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| RepositoryFile::parse(text).ok());
    let Some(file) = read else { return false };
    let text = file.to_text().expect("what was read can be written");
    let again = RepositoryFile::parse(&text).expect("what was written can be read");
    assert_eq!(*again.to_text().expect("what was read can be written"), *text);
    true
}

/// An identity file, or a wrapped key.
pub fn keys(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let identities = parse_identity_file(text).ok();
    let unwrapped = unwrap_key(text, identities.as_deref().unwrap_or_default()).is_ok();
    unwrapped || identities.is_some()
}

/// All that is told by the name of an object: what is taken for a name is written the same again.
pub fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mut taken = false;
    let mut same = |again: Option<String>| {
        taken |= again.as_deref().inspect(|again| assert_eq!(*again, text)).is_some();
    };
    same(text.parse::<BackupId>().ok().map(|id| id.to_string()));
    same(text.parse::<ClusterName>().ok().map(|name| name.to_string()));
    same(WalFile::parse(text).map(|file| file.to_string()));
    let Ok(object) = ObjectName::new(text) else {
        return taken;
    };
    same(LeaseName::parse(&object).map(|lease| lease.object_name().to_string()));
    same(parse_control_name(&object).map(|(id, kind)| control_name(&id, kind).to_string()));
    let pack = Lineage::of_pack(&object).ok();
    same(pack.map(|(lineage, id, number)| lineage.pack_name(&id, number).to_string()));
    same(wal_name(&object));
    let (plain, number) = split_alternate(text);
    assert!(
        text.starts_with(plain) && (number > 0) == (plain.len() < text.len()),
        "{text}"
    );
    assert_eq!(logical(&object).as_str(), plain);
    if let Some(further) = alternate(&object, 9999) {
        assert_eq!(split_alternate(further.as_str()), (text, 9999));
    }
    taken
}

fn wal_name(object: &ObjectName) -> Option<String> {
    let parsed = parse_object_name(object).filter(|parsed| parsed.part.is_none())?;
    let again = object_name(&parsed.cluster, parsed.sysid, &parsed.file, &parsed.hash);
    Some(again.expect("what was read can be written").to_string())
}
