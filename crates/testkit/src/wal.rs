//! Writes WAL as PostgreSQL lays it out: any block size, any segment size, records of any length.
//!
//! Rule: from PostgreSQL's headers (`access/xlog_internal.h`, `access/xlogrecord.h`), not from the code that reads it.

use pgkeep_base::{Lsn, SegmentSize, SystemId, TimelineId, WalSegment};

/// A record as it was written, or as it was shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// First byte.
    pub start: Lsn,
    /// First byte after it, aligned.
    pub end: Lsn,
    /// Start of the record before it.
    pub prev: Lsn,
    /// `xl_xid`.
    pub xid: u32,
    /// `xl_rmid`.
    pub rmgr: u8,
    /// `xl_info`.
    pub info: u8,
    /// `xl_tot_len`.
    pub total_bytes: u32,
    /// CRC-32C of as much of it as a reader keeps.
    pub kept_hash: u32,
}

/// A log that is being written; clone it to let it go two ways.
#[derive(Clone, Debug)]
pub struct Writer {
    /// `XLOG_PAGE_MAGIC`.
    pub magic: u16,
    /// Of the cluster.
    pub system_id: SystemId,
    /// Of a segment.
    pub size: SegmentSize,
    /// `XLOG_BLCKSZ`.
    pub block: usize,
    /// In the headers of the pages to come.
    pub timeline: u32,
    /// The segment that holds the first byte.
    pub first: u64,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Start of the last record.
    pub prev: Lsn,
    /// What was written.
    pub written: Vec<Shown>,
    /// Set on the next page header.
    pub extra_flags: u16,
}

impl Writer {
    /// An empty log of PostgreSQL 17 with segments of 1 MiB, beginning at segment 3.
    pub fn new(block: usize) -> Writer {
        Writer {
            magic: 0xD116,
            system_id: SystemId(7_000_000_000_000_000_001),
            size: SegmentSize::new(1 << 20).unwrap(),
            block,
            timeline: 1,
            first: 3,
            bytes: Vec::new(),
            prev: Lsn(0x28),
            written: Vec::new(),
            extra_flags: 0,
        }
    }

    /// Position of the first byte.
    pub fn base(&self) -> u64 {
        self.first * self.size.bytes()
    }

    /// Position of the next byte.
    pub fn at(&self) -> Lsn {
        Lsn(self.base() + self.bytes.len() as u64)
    }

    /// The name of the segment at `index`, on the newest timeline.
    pub fn name(&self, index: usize) -> WalSegment {
        WalSegment {
            timeline: TimelineId::new(self.timeline).unwrap(),
            number: self.first + index as u64,
            size: self.size,
        }
    }

    /// What was written, cut into segments; the last one is filled up with zeroes.
    pub fn segments(&self) -> Vec<Vec<u8>> {
        let size = self.size.bytes() as usize;
        self.bytes
            .chunks(size)
            .map(|chunk| {
                let mut segment = vec![0; size];
                segment[..chunk.len()].copy_from_slice(chunk);
                segment
            })
            .collect()
    }

    /// The records that end in the segment at `index`.
    pub fn ending_in(&self, index: usize) -> Vec<&Shown> {
        let number = self.first + index as u64;
        self.written
            .iter()
            .filter(|record| self.size.number_before(record.end) == number)
            .collect()
    }

    fn page_header(&mut self, remaining: u32) {
        let at = self.at();
        let long = at.0.is_multiple_of(self.size.bytes());
        let mut flags = std::mem::take(&mut self.extra_flags);
        flags |= if remaining > 0 { 1 } else { 0 };
        flags |= if long { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(self.system_id.0.to_le_bytes());
            self.bytes.extend((self.size.bytes() as u32).to_le_bytes());
            self.bytes.extend((self.block as u32).to_le_bytes());
        }
    }

    fn at_page_start(&self) -> bool {
        self.bytes.len().is_multiple_of(self.block)
    }

    /// Writes a record with this main data and shows how it should be shown.
    pub fn record(&mut self, rmgr: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        let mut body = Vec::with_capacity(main.len() + 5);
        if main.len() < 256 {
            if !main.is_empty() {
                body.extend([255, main.len() as u8]);
            }
        } else {
            body.push(254);
            body.extend((main.len() as u32).to_le_bytes());
        }
        body.extend(main);
        self.raw(rmgr, info, xid, &body)
    }

    /// Writes a record with this body: fragment headers, block data, main data.
    pub fn raw(&mut self, rmgr: u8, info: u8, xid: u32, body: &[u8]) -> Lsn {
        let total = body.len() as u32 + 24;
        let mut record = Vec::with_capacity(total as usize);
        record.extend(total.to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.prev.0.to_le_bytes());
        record.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        if self.at_page_start() {
            self.page_header(0);
        }
        let start = self.at();
        self.append(&record);
        let kept = &record[..record.len().min(pgkeep_base::limits::WAL_RECORD_BYTES_KEPT)];
        self.written.push(Shown {
            start,
            end: self.at(),
            prev: self.prev,
            xid,
            rmgr,
            info,
            total_bytes: total,
            kept_hash: crc32c::crc32c(kept),
        });
        self.prev = start;
        start
    }

    fn append(&mut self, record: &[u8]) {
        let mut rest = record;
        while !rest.is_empty() {
            if self.at_page_start() {
                self.page_header(rest.len() as u32);
            }
            let room = self.block - self.bytes.len() % self.block;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// `XLOG_SWITCH`: a bare record and zeroes up to the segment's end.
    pub fn switch(&mut self) -> Lsn {
        let start = self.raw(0, 0x40, 0, &[]);
        let size = self.size.bytes() as usize;
        let unused = self.bytes.len().next_multiple_of(size) - self.bytes.len();
        self.bytes.extend(vec![0; unused]);
        let end = self.at();
        self.written.last_mut().unwrap().end = end;
        start
    }

    /// A commit of `xid` at this many microseconds after 2000.
    pub fn commit(&mut self, xid: u32, microseconds: i64) -> Lsn {
        self.record(1, 0x00, xid, &microseconds.to_le_bytes())
    }

    /// Fills the log until a record of `bytes` in all would end exactly at `lsn`'s page offset.
    pub fn fill_to(&mut self, lsn: Lsn) {
        while self.at() < lsn {
            let left = (lsn.0 - self.at().0) as usize;
            let page_left = self.block - self.bytes.len() % self.block;
            let header = match self.at_page_start() {
                true if self.at().0.is_multiple_of(self.size.bytes()) => 40,
                true => 24,
                false => 0,
            };
            let most = left.min(page_left) - header;
            // Never leave less than a record's header behind, unless it is nothing.
            let now = if most > 4096 {
                2048
            } else if most > 2000 {
                most / 2 / 8 * 8
            } else {
                most
            };
            assert!(now >= 32, "{now} bytes can't hold a filler");
            let main = if now - 24 - 2 < 256 { now - 24 - 2 } else { now - 24 - 5 };
            self.record(10, 0, 1, &vec![0xAA; main]);
        }
        assert_eq!(self.at(), lsn);
    }
}
