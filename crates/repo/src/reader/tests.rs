//! Backups written with the tools of this room come back whole, with few requests, from whatever copies are good.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use pgkeep_base::ErrorKind;
use pgkeep_store::Payload;

use super::chunks::{FETCH_BYTES_MAX, FETCH_CONTENT_BYTES_MAX};
use super::*;
use crate::digest::Digest;
use crate::frame::encode;
use crate::head::{HeadKind, tests::physical_head};
use crate::manifest::entry::SPAN_BYTES_MAX;
use crate::manifest::tests::{chunk, directory, file, inline, last, pack, path};
use crate::manifest::{Block, BlockBuilder, BlockRef, Chunk};
use crate::pack::{ClosedPack, PackWriter};
use crate::packlist::{PackInfo, PackListBuilder};
use crate::seal::Sealer;
use crate::test_support::{Place, Repository, run};

/// Bytes that compress to about a half and differ from page to page.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let pages = (0u64..).flat_map(|page| {
        let mut half = vec![0; 4096];
        blake3::Hasher::new()
            .update(&[seed, page].map(u64::to_le_bytes).concat())
            .finalize_xof()
            .fill(&mut half);
        half.extend_from_slice(&[seed as u8; 4096]);
        half
    });
    pages.take(bytes).collect()
}

/// Objects in the order in which they are to be created.
type Objects = Vec<(ObjectName, Payload)>;

/// A backup in the making, as the engine will write it, on one thread.
struct Writer {
    packs: PackWriter,
    list: PackListBuilder,
    blocks: BlockBuilder,
    index: ManifestIndex,
    objects: Objects,
}

impl Writer {
    fn new(repository: &Repository, pack_bytes: u64) -> Writer {
        let head = physical_head();
        let packs = PackWriter::new(repository.sealer(), head.lineage(), head.id).bytes_target(pack_bytes);
        Writer {
            packs,
            list: PackListBuilder::default(),
            blocks: BlockBuilder::new(),
            index: ManifestIndex::default(),
            objects: vec![],
        }
    }

    fn chunk(&mut self, content: &[u8]) -> Arc<Chunk> {
        let placed = self
            .packs
            .push(&encode(content, 1).unwrap(), Digest::of(content))
            .unwrap();
        self.closed(placed.closed);
        placed.chunk
    }

    fn closed(&mut self, pack: Option<ClosedPack>) {
        if let Some(ClosedPack { object, .. }) = pack {
            self.list.know(PackInfo::of(&object));
            self.objects.push((object.name, object.payload));
        }
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Entry {
        let extent = |part: &[u8]| Extent::of_chunk(self.chunk(part), 0, part.len() as u64);
        let extents = content.chunks(1 << 20).map(extent).collect();
        file(name, content.len() as u64, extents)
    }

    fn entry(&mut self, entry: &Entry) {
        if let Some(block) = self.blocks.push(entry).unwrap() {
            self.block(block);
        }
    }

    fn block(&mut self, block: Block) {
        let chunk = self.chunk(&block.json);
        self.list.refer(&block.live, &chunk);
        self.index.blocks.push(BlockRef {
            first: block.first,
            chunk,
        });
    }

    /// Everything that is to be created, in order.
    fn finish(mut self, sealer: &Sealer) -> Objects {
        if let Some(block) = std::mem::take(&mut self.blocks).finish(&last()).unwrap() {
            self.block(block);
        }
        self.finish_as_is(sealer)
    }

    /// The same without the builder's last block.
    fn finish_as_is(mut self, sealer: &Sealer) -> Objects {
        let pack = self.packs.close().unwrap();
        self.closed(pack);
        let mut head = physical_head();
        let (lineage, id) = (head.lineage(), head.id.clone());
        self.index.last = last();
        let manifest = self.index.to_object(sealer, &lineage.manifest_name(&id)).unwrap();
        let packs = self
            .list
            .finish()
            .unwrap()
            .to_object(sealer, &lineage.packs_name(&id))
            .unwrap();
        let HeadKind::Physical(physical) = &mut head.kind else {
            unreachable!("made so")
        };
        (physical.manifest, physical.packs) = (ObjectHash::of(&manifest), ObjectHash::of(&packs));
        let head = head.sign(sealer).unwrap();
        self.objects.push((manifest.name, manifest.payload));
        self.objects.push((packs.name, packs.payload));
        self.objects.push((head.name, head.bytes.into()));
        self.objects
    }
}

/// A backup of a few files in small packs, and what is in it.
fn small_backup(repository: &Repository) -> (Objects, BTreeMap<&'static str, Vec<u8>>) {
    let files = BTreeMap::from([
        ("base/5/1", content(1, 3 << 20)),
        ("base/5/2", content(2, 8192)),
        ("base/5/3", content(3, 1_500_000)),
    ]);
    let mut writer = Writer::new(repository, 1 << 20);
    for name in ["base", "base/5"] {
        writer.entry(&directory(name));
    }
    for (name, content) in &files {
        let entry = writer.file(name, content);
        writer.entry(&entry);
    }
    writer.entry(&inline("base/5/PG_VERSION", b"18\n"));
    writer.entry(&directory("global"));
    (writer.finish(&repository.sealer()), files)
}

/// A place that holds these objects.
async fn place_of(objects: &[(ObjectName, Payload)]) -> Arc<Place> {
    let place = Place::new();
    for (name, payload) in objects {
        place.put(name, payload.clone()).await;
    }
    place
}

async fn open(repository: &Repository, places: &[&Arc<Place>]) -> Result<BackupReader> {
    let stores = places.iter().map(|place| (*place).clone() as Arc<dyn Store>).collect();
    let head = physical_head();
    BackupReader::open(stores, repository.opener(), &head.lineage(), &head.id).await
}

async fn all_entries(reader: &BackupReader) -> Result<Vec<Entry>> {
    let mut stream = reader.entries();
    let mut entries = vec![];
    while let Some(entry) = stream.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

async fn assert_whole(reader: &BackupReader, files: &BTreeMap<&str, Vec<u8>>) {
    for (name, content) in files {
        assert!(whole(reader, name).await.unwrap() == *content, "{name}");
    }
}

async fn whole(reader: &BackupReader, name: &str) -> Result<Vec<u8>> {
    let entries = reader.find(&path(name)).await?;
    reader.read_at(&entries, 0, usize::MAX).await
}

fn requests(place: &Place) -> usize {
    place.requests.swap(0, Ordering::Relaxed)
}

#[test]
fn a_backup_comes_back_whole_sealed_or_not() {
    for repository in Repository::both() {
        run(async {
            let (objects, files) = small_backup(&repository);
            let place = place_of(&objects).await;
            let reader = open(&repository, &[&place]).await.unwrap();
            let names: Vec<_> = all_entries(&reader)
                .await
                .unwrap()
                .iter()
                .map(|entry| entry.path.to_string())
                .collect();
            assert_eq!(
                names,
                [
                    "base",
                    "base/5",
                    "base/5/1",
                    "base/5/2",
                    "base/5/3",
                    "base/5/PG_VERSION",
                    "global"
                ]
            );
            assert_whole(&reader, &files).await;
            assert_eq!(whole(&reader, "base/5/PG_VERSION").await.unwrap(), b"18\n");
            assert_eq!(whole(&reader, "global/pg_control").await.unwrap(), [7; 8192]);
            assert!(reader.find(&path("base/5/4")).await.unwrap().is_empty());
            assert!(reader.read_at(&[directory("base")], 0, 1).await.is_err());
            let stored: u64 = reader.packs().packs().iter().map(|pack| pack.bytes).sum();
            assert!(reader.packs().live_bytes() < stored && reader.packs().live_bytes() > stored * 9 / 10);
        });
    }
}

/// Aim: one page of one file of one backup is one ranged read, for lazy mounts and rescue.
#[test]
fn any_page_costs_one_request_once_the_manifest_is_at_hand() {
    let repository = Repository::new(true);
    run(async {
        let (objects, files) = small_backup(&repository);
        let place = place_of(&objects).await;
        requests(&place);
        let reader = open(&repository, &[&place]).await.unwrap();
        assert_eq!(requests(&place), 3, "head, packs, manifest");
        let entries = reader.find(&path("base/5/3")).await.unwrap();
        assert_eq!(requests(&place), 1, "the block");
        for page in [0, 1, 127, 128, 182, 183] {
            let read = reader.read_at(&entries, page * 8192, 8192).await.unwrap();
            let from = page as usize * 8192;
            assert_eq!(read, files["base/5/3"][from..1_500_000.min(from + 8192)]);
            assert_eq!(requests(&place), 1, "page {page}");
        }
        assert!(reader.read_at(&entries, 1_500_000, 8192).await.unwrap().is_empty());
        assert_eq!(requests(&place), 0);
    });
}

#[test]
fn neighbouring_chunks_are_one_request_and_far_ones_are_not() {
    let repository = Repository::new(false);
    let mut list = PackListBuilder::default();
    let at = |number: u32, at: u64, content_bytes: u32| chunk(number, at, content_bytes);
    for number in 0..2 {
        let name = (*pack(number)).clone();
        let (blake3, key) = (Digest::of(b""), None);
        list.know(PackInfo {
            name,
            bytes: 100 << 20,
            header_bytes: 100,
            blake3,
            live_bytes: 0,
            key,
        });
        list.refer(&[(pack(number), 1)], &at(number, 0, 3));
    }
    let source = ChunkSource::new(vec![], repository.opener(), list.finish().unwrap());
    let sizes = |chunks: &[Arc<Chunk>]| {
        let plan = source.plan(chunks).unwrap();
        assert!(
            plan.iter()
                .all(|fetch| fetch.bytes() <= FETCH_BYTES_MAX || fetch.chunks().len() == 1)
        );
        assert!(
            plan.iter()
                .all(|fetch| fetch.content_bytes() <= FETCH_CONTENT_BYTES_MAX)
        );
        plan.iter()
            .map(|fetch| (fetch.chunks()[0].offset, fetch.chunks().len()))
            .collect::<Vec<_>>()
    };
    let mib = 1 << 20;
    assert_eq!(sizes(&[at(0, 0, 300), at(0, 128, 300), at(0, mib, 300)]), [(0, 3)]);
    assert_eq!(sizes(&[at(0, 0, 300), at(0, mib + 129, 300)]), [(0, 1), (mib + 129, 1)]);
    assert_eq!(sizes(&[at(0, 0, 300), at(1, 128, 300)]), [(0, 1), (128, 1)]);
    assert_eq!(
        sizes(&[at(0, 5 * mib, 3), at(0, 0, 3), at(0, 5 * mib, 3)]),
        [(5 * mib, 1), (0, 1)]
    );
    let many: Vec<_> = (0..100).map(|i| at(0, i * 400_000, 1 << 20)).collect();
    assert_eq!(sizes(&many).len(), 100usize.div_ceil(16), "16 MiB of content each");
    let dense: Vec<_> = (0..60).map(|i| at(0, i * 300_000, 3 * 250_000)).collect();
    assert!(sizes(&dense).iter().all(|(_, chunks)| *chunks <= 22));
    assert!(source.plan(&[at(0, (100 << 20) - 100, 300)]).is_err(), "behind the end");
    assert!(source.plan(&[at(2, 0, 300)]).is_err(), "not listed");
    assert!(source.plan(&[at(0, i64::MAX as u64, 300)]).is_err());
}

#[test]
fn one_bad_copy_of_each_object_costs_another_read_and_no_more() {
    let repository = Repository::new(true);
    run(async {
        let (objects, files) = small_backup(&repository);
        let (near, far) = (place_of(&objects).await, place_of(&objects).await);
        for (i, (name, _)) in objects.iter().enumerate() {
            match i % 3 {
                0 => near.lose(name),
                1 => near.damage(name, |bytes| *bytes = bytes[..bytes.len() / 2].to_vec()),
                _ => near.damage(name, |bytes| bytes.iter_mut().skip(1000).for_each(|byte| *byte ^= 1)),
            }
        }
        let reader = open(&repository, &[&near, &far]).await.unwrap();
        assert_whole(&reader, &files).await;
        assert_eq!(all_entries(&reader).await.unwrap().len(), 7);
        let alone = match open(&repository, &[&near]).await {
            Ok(reader) => all_entries(&reader).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(alone.is_err());
    });
}

#[test]
fn a_healed_copy_beside_a_bad_one_is_found() {
    let repository = Repository::new(true);
    run(async {
        let (objects, files) = small_backup(&repository);
        let place = Place::new();
        for (i, (name, payload)) in objects.iter().enumerate() {
            let mut bad = payload.parts().concat();
            let middle = bad.len() / 2;
            bad[middle..].fill(0);
            if i % 2 == 0 {
                place.put(name, bad.clone()).await;
            }
            place
                .put(&crate::names::alternate(name, 1).unwrap(), payload.clone())
                .await;
        }
        let reader = open(&repository, &[&place]).await.unwrap();
        assert!(whole(&reader, "base/5/1").await.unwrap() == files["base/5/1"]);
        assert_eq!(all_entries(&reader).await.unwrap().len(), 7);
    });
}

#[test]
fn a_place_that_does_not_answer_is_asked_once() {
    let repository = Repository::new(true);
    run(async {
        let (objects, files) = small_backup(&repository);
        let (near, far) = (place_of(&objects).await, place_of(&objects).await);
        let reader = open(&repository, &[&near, &far]).await.unwrap();
        near.fail_with(ErrorKind::Unavailable);
        requests(&near);
        assert_whole(&reader, &files).await;
        assert_eq!(requests(&near), 1);
        far.fail_with(ErrorKind::Denied);
        let error = whole(&reader, "base/5/1").await.unwrap_err();
        assert!(
            [ErrorKind::Unavailable, ErrorKind::Denied].contains(&error.kind()),
            "{error:?}"
        );
    });
}

#[test]
fn what_a_backup_names_and_nobody_has_is_damage() {
    let repository = Repository::new(true);
    run(async {
        let (objects, _) = small_backup(&repository);
        for (i, (name, _)) in objects.iter().enumerate().rev() {
            let place = place_of(&objects).await;
            place.lose(name);
            let result = match open(&repository, &[&place]).await {
                Ok(reader) => whole(&reader, "base/5/1").await.and(whole(&reader, "base/5/3").await),
                Err(error) => Err(error),
            };
            let kind = result.map(drop).map_err(|error| error.kind());
            match i + 1 == objects.len() {
                true => assert_eq!(kind, Err(ErrorKind::NotFound), "without its head it does not exist"),
                false => assert!(kind == Err(ErrorKind::Corrupt) || kind.is_ok(), "{name}: {kind:?}"),
            }
        }
    });
}

/// Aim: objects of one signed backup can't stand in for those of another.
#[test]
fn objects_that_the_head_does_not_name_are_refused_even_if_well_signed() {
    let repository = Repository::new(true);
    run(async {
        let (objects, _) = small_backup(&repository);
        let mut other = Writer::new(&repository, 1 << 20);
        other.entry(&directory("global"));
        let others = other.finish(&repository.sealer());
        for (name, payload) in &others[others.len() - 3..others.len() - 1] {
            let place = place_of(&objects).await;
            place.lose(name);
            place.put(name, payload.clone()).await;
            let error = open(&repository, &[&place]).await.err().expect("must be refused");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        }
    });
}

#[test]
fn a_file_over_one_gib_is_read_across_its_spans() {
    let repository = Repository::new(false);
    run(async {
        let mut writer = Writer::new(&repository, 32 << 20);
        let (head, tail) = (content(1, 8192), content(2, 8192));
        let bytes = SPAN_BYTES_MAX + 16384;
        let spans = [
            (
                0,
                vec![
                    Extent::zeros(SPAN_BYTES_MAX - 8192),
                    Extent::of_chunk(writer.chunk(&head), 0, 8192),
                ],
            ),
            (
                SPAN_BYTES_MAX,
                vec![Extent::of_chunk(writer.chunk(&tail), 0, 8192), Extent::zeros(8192)],
            ),
        ];
        for (at, extents) in spans {
            let span = FileSpan {
                bytes,
                at,
                content: Content::Extents(extents),
                bad_pages: vec![],
            };
            let kind = crate::manifest::EntryKind::File(span);
            writer.entry(&Entry {
                kind,
                ..directory("big")
            });
        }
        writer.entry(&directory("global"));
        let place = place_of(&writer.finish(&repository.sealer())).await;
        let reader = open(&repository, &[&place]).await.unwrap();
        let entries = reader.find(&path("big")).await.unwrap();
        let read = reader.read_at(&entries, SPAN_BYTES_MAX - 8193, 3 * 8192).await.unwrap();
        let expected = [&[0][..], &head, &tail, &[0; 8191]].concat();
        assert!(read == expected);
        assert!(reader.read_at(&entries[..1], SPAN_BYTES_MAX, 1).await.is_err());
        assert_eq!(reader.read_at(&entries, 0, 5).await.unwrap(), [0; 5]);
    });
}

/// Aim: a signed but hostile manifest does not get past the stream of entries.
#[test]
fn blocks_that_contradict_each_other_end_the_stream_with_an_error() {
    let repository = Repository::new(true);
    let build = |entries: &[Entry]| {
        let mut blocks = BlockBuilder::new();
        entries
            .iter()
            .for_each(|entry| assert!(blocks.push(entry).unwrap().is_none()));
        blocks.finish(&last()).unwrap().unwrap()
    };
    let good = || build(&[directory("a"), directory("global")]);
    let cases: [(Vec<Block>, bool); 5] = [
        (vec![good()], true),
        (vec![good(), good()], false),
        (
            vec![
                good(),
                build(&[directory("a"), inline("a/x", b""), directory("global")]),
            ],
            false,
        ),
        (
            vec![Block {
                first: path("b"),
                ..good()
            }],
            false,
        ),
        (vec![], false),
    ];
    for (i, (blocks, fine)) in cases.into_iter().enumerate() {
        let mut writer = Writer::new(&repository, 1 << 20);
        for block in blocks {
            let first = block.first.clone();
            writer.block(block);
            writer.index.blocks.last_mut().unwrap().first = first;
        }
        writer.index.blocks.sort_by(|a, b| a.first.cmp(&b.first));
        let objects = writer.finish_as_is(&repository.sealer());
        run(async {
            let place = place_of(&objects).await;
            let reader = open(&repository, &[&place]).await.unwrap();
            let mut stream = reader.entries();
            let mut result = Ok(());
            while result.is_ok() {
                match stream.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => result = Err(error.kind()),
                }
            }
            let expected = if fine { Ok(()) } else { Err(ErrorKind::Corrupt) };
            assert_eq!(result, expected, "case {i}");
            assert!(stream.next().await.unwrap().is_none(), "it has ended");
        });
    }
}

#[test]
fn a_pack_list_is_read_without_an_identity() {
    let repository = Repository::new(true);
    run(async {
        let (objects, _) = small_backup(&repository);
        let place = place_of(&objects).await;
        let stores = [place.clone() as Arc<dyn Store>];
        let trust = repository.opener().trust().clone();
        let keyless = Opener::new(repository.id, vec![], trust);
        let head = physical_head();
        let read = read_head(&stores, &keyless, &head.lineage(), &head.id).await.unwrap();
        let packs = read_packs(&stores, &keyless, &read.head).await.unwrap();
        assert_eq!(packs.packs().len(), objects.len() - 3);
        let error = BackupReader::of_head(stores.to_vec(), keyless, read)
            .await
            .err()
            .expect("no identity");
        assert_eq!(error.kind(), ErrorKind::Refused);
    });
}

#[test]
fn a_head_that_nobody_has_is_not_found() {
    let repository = Repository::new(true);
    run(async {
        let error = open(&repository, &[&Place::new()]).await.err().expect("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint_text().unwrap().contains("pgkeep list"));
    });
}
