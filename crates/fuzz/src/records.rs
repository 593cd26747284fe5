//! Target: WAL whose page headers, links and checksums are right, so that what lies behind these is reached.
//!
//! An input is a list of records; the testkit's writer lays them out as PostgreSQL would. They are read back and compared
//! with what was written, and read again with one damaged byte. Input: major and block size, where the damage is (two
//! bytes), what is flipped there, then for each record what to do (see `Op`), resource manager, `xl_info`, length, body.

use std::ops::ControlFlow;

use pgkeep_base::{PgMajor, SegmentFacts, WalSegment};
use pgkeep_pg::wal::{FactsWalk, Meaning, Record, WalkEnd, Walker, meaning, segment_facts};
use pgkeep_repo::wal::{Link, link};
use pgkeep_testkit::wal::{Shown, Writer};

/// `XLOG_PAGE_MAGIC` of 14 to 18.
const MAGICS: [u16; 5] = [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
const DROPS_UNFINISHED: u16 = 8;
/// As much is written, and a last record.
const WRITTEN_BYTES_MAX: usize = 5 << 19;
/// A part of a segment that a reader is given at once.
const PART_BYTES: usize = 64 << 10;

/// Bits of the byte in front of a record.
struct Op(u8);

impl Op {
    /// The body is the whole record, fragment headers included; otherwise it is main data.
    fn is_raw(&self) -> bool {
        self.0 & 1 != 0
    }
    /// The body is repeated, 16 times for each byte that it is announced to have.
    fn is_long(&self) -> bool {
        self.0 & 2 != 0
    }
    /// The next page is of the next timeline.
    fn promotes(&self) -> bool {
        self.0 & 4 != 0
    }
    /// The next page says that a crash left a record unfinished.
    fn drops(&self) -> bool {
        self.0 & 8 != 0
    }
}

pub fn wal_records(bytes: &[u8]) -> bool {
    let Some(([setting, high, low, flip], ops)) = bytes.split_first_chunk() else {
        return false;
    };
    let mut writer = Writer::new([8192, 1024, 16384, 65536][usize::from(setting / 5 % 4)]);
    writer.magic = MAGICS[usize::from(setting % 5)];
    let regular = write(&mut writer, ops);
    let mut segments = writer.segments();
    let shown = read(&writer, &segments);
    if regular {
        assert_eq!(shown, writer.written, "what was written is not what is read");
        agree(&writer, &segments, shown.len());
    }
    let place = usize::from(u16::from_le_bytes([*high, *low])) * writer.bytes.len() / (1 << 16);
    let size = writer.size.bytes() as usize;
    if let Some(segment) = segments.get_mut(place / size) {
        segment[place % size] ^= flip;
        read(&writer, &segments);
    }
    !shown.is_empty()
}

/// True if every record must be read back.
fn write(writer: &mut Writer, mut ops: &[u8]) -> bool {
    let mut regular = true;
    while let Some(([op, rmgr, info, length], rest)) = ops.split_first_chunk()
        && writer.bytes.len() < WRITTEN_BYTES_MAX
    {
        let (op, length) = (Op(*op), usize::from(*length));
        let (body, rest) = rest.split_at(length.min(rest.len()));
        ops = rest;
        writer.timeline += u32::from(op.promotes());
        writer.extra_flags = if op.drops() { DROPS_UNFINISHED } else { 0 };
        regular &= !op.drops() && (*rmgr <= 21 || (*rmgr >= 128 && writer.magic != MAGICS[0]));
        let long = if op.is_long() {
            body.repeat(length << 4)
        } else {
            Vec::new()
        };
        let body = if op.is_long() { &long } else { body };
        let xid = writer.written.len() as u32;
        match (*rmgr, info & 0xF0) {
            (0, 0x40) => writer.switch(),
            _ if op.is_raw() => writer.raw(*rmgr, *info, xid, body),
            _ => writer.record(*rmgr, *info, xid, body),
        };
    }
    regular
}

/// What a walk shows.
fn read(writer: &Writer, segments: &[Vec<u8>]) -> Vec<Shown> {
    let (mut walker, mut facts) = (Walker::new(None), FactsWalk::new());
    let mut shown = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let name = writer.name(index);
        let mut visit = |record: &Record<'_>| {
            PgMajor::all().for_each(|major| not_passed_over(record, &meaning(record, major)));
            shown.push(as_shown(record));
            ControlFlow::Continue(())
        };
        let end = walker.feed(segment, &name, &mut visit);
        let whole = facts.feed(segment, &name);
        if !matches!(&end, Ok(end) if !matches!(end, WalkEnd::Stopped { .. })) {
            break;
        }
        assert!(whole.is_ok(), "records can be read and facts can't: {whole:?}");
    }
    shown
}

fn as_shown(record: &Record<'_>) -> Shown {
    Shown {
        start: record.start,
        end: record.end,
        prev: record.prev,
        xid: record.xid,
        rmgr: record.rmgr,
        info: record.info,
        total_bytes: record.total_bytes,
        kept_hash: crc32c::crc32c(record.kept),
    }
}

/// What ends a transaction or names a moment is never nothing.
fn not_passed_over(record: &Record<'_>, meaning: &Meaning) {
    let good = match (record.rmgr, record.info & 0x70) {
        (1, 0x00 | 0x20 | 0x30 | 0x40) => matches!(
            meaning,
            Meaning::Commit { .. } | Meaning::Abort { .. } | Meaning::Unreadable
        ),
        (0, 0x70) if record.info & 0x80 == 0 => {
            matches!(meaning, Meaning::RestorePoint { .. } | Meaning::Unreadable)
        }
        _ => true,
    };
    assert!(good, "{record:?} means {meaning:?}");
}

/// The facts of good segments are the same however they are read, count every record, and prove the chain.
fn agree(writer: &Writer, segments: &[Vec<u8>], records: usize) {
    let mut walk = FactsWalk::new();
    let (mut before, mut known) = (None::<SegmentFacts>, 0);
    for (index, segment) in segments.iter().enumerate() {
        let name = writer.name(index);
        let facts = in_parts(&mut walk, segment, &name);
        known += writer.ending_in(index).len();
        let alone = segment_facts(segment, &name, None).expect("it was read before");
        if facts.continued_bytes == 0 {
            assert_eq!(alone, facts);
        }
        let json = serde_json::to_vec(&facts).expect("facts are plain data");
        assert_eq!(serde_json::from_slice::<SegmentFacts>(&json).ok(), Some(facts.clone()));
        if let Some(before) = before.replace(facts) {
            let linked = link(&before, &alone);
            assert_ne!(linked, Link::Broken, "{before:?} does not lead to {alone:?}");
        }
    }
    assert_eq!(known, records);
}

fn in_parts(walk: &mut FactsWalk, segment: &[u8], name: &WalSegment) -> SegmentFacts {
    walk.begin(name).expect("segments are read in order");
    segment
        .chunks(PART_BYTES)
        .for_each(|part| walk.part(part).expect("it is what its name says"));
    walk.finish().expect("it was read before")
}
