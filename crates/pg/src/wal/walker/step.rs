//! One page of the walk: its header, the rest of the record that goes on in it, the records that begin in it.
//!
//! Invariant: every offset comes from a checked length; nothing indexes past the page, however short it is.

use super::*;

/// A page (or what there is of it) and where it belongs.
pub(super) struct Page<'a> {
    pub bytes: &'a [u8],
    pub at: Lsn,
    /// `XLOG_BLCKSZ`.
    pub block: usize,
    pub segment: &'a WalSegment,
    pub major: PgMajor,
}

impl Page<'_> {
    fn lsn(&self, offset: usize) -> Lsn {
        Lsn(self.at.0 + offset as u64)
    }
}

impl Walker {
    pub(super) fn page(&mut self, page: &Page, identity: &SegmentHeader, visit: &mut Visit) -> Result<(), Halt> {
        let header = self.page_header(page, identity)?;
        match self.resume(page, &header, visit)? {
            Some(offset) => self.records(page, offset, visit),
            None => Ok(()),
        }
    }

    /// `XLogReaderValidatePageHeader`, and that the timeline is not past the file's.
    fn page_header(&mut self, page: &Page, identity: &SegmentHeader) -> Result<PageHeader, Halt> {
        let Some(header) = PageHeader::read(page.bytes) else {
            return Err(self.cut_short(
                page.at,
                format!("the segment ends inside the page header at {}", page.at),
            ));
        };
        match check_page_header(&header, page, identity, self.timeline) {
            Ok(timeline) => {
                self.timeline = Some(timeline);
                Ok(header)
            }
            Err(why) => Err(self.cut_short(page.at, format!("page at {}: {why}", page.at))),
        }
    }

    /// Goes on with what earlier pages left open; where the first record of this page begins, `None` if none does.
    fn resume(&mut self, page: &Page, header: &PageHeader, visit: &mut Visit) -> Result<Option<usize>, Halt> {
        let first = header.bytes();
        match &self.state {
            State::Seeking => self.seek(page, header),
            State::Between | State::Switched { .. } | State::Ended if header.begins_inside_a_record() => stop(
                page.at,
                format!("page at {} goes on with a record that never began", page.at),
            ),
            State::Between | State::Switched { .. } | State::Ended => Ok(Some(first)),
            State::Assembling(_) | State::Skipping { .. } if header.drops_unfinished() => {
                // A crash left the record unfinished; PostgreSQL writes on as if it had not begun.
                self.state = State::Between;
                Ok(Some(first))
            }
            State::Assembling(record) => {
                let record = *record;
                self.assemble(page, header, record, visit)
            }
            State::Skipping { remaining } => {
                let remaining = *remaining;
                if header.continued_bytes() != remaining {
                    return stop(page.at, wrong_continuation(page.at, header, remaining));
                }
                Ok(self.skip(page, header))
            }
        }
    }

    /// Finds the first record of the walk.
    fn seek(&mut self, page: &Page, header: &PageHeader) -> Result<Option<usize>, Halt> {
        if let Some(start) = self.start_at {
            let offset = start.0.saturating_sub(page.at.0);
            if offset >= page.block as u64 {
                return Ok(None);
            }
            let offset = if offset == 0 { header.bytes() } else { offset as usize };
            let inside = offset < header.bytes() || offset % 8 != 0;
            if inside || (offset == header.bytes() && header.begins_inside_a_record()) {
                return stop(start, format!("no record begins at {start}"));
            }
            self.state = State::Between;
            return Ok(Some(offset));
        }
        if header.begins_inside_a_record() {
            return Ok(self.skip(page, header));
        }
        self.state = State::Between;
        Ok(Some(header.bytes()))
    }

    /// Steps over the part of an unknown record that lies in this page.
    fn skip(&mut self, page: &Page, header: &PageHeader) -> Option<usize> {
        let room = page.block - header.bytes();
        let remaining = header.remaining_bytes as usize;
        if remaining > room {
            self.state = State::Skipping {
                remaining: (remaining - room) as u32,
            };
            return None;
        }
        self.state = State::Between;
        Some(header.bytes() + max_align(remaining as u64) as usize)
    }

    /// Appends this page's part of the record, and shows the record once it is whole.
    fn assemble(
        &mut self,
        page: &Page,
        header: &PageHeader,
        mut record: Assembly,
        visit: &mut Visit,
    ) -> Result<Option<usize>, Halt> {
        let missing = record.total - record.got;
        if header.continued_bytes() != missing {
            return Err(self.cut_short(page.at, wrong_continuation(page.at, header, missing)));
        }
        let first = header.bytes();
        let length = (missing as usize).min(page.block - first);
        let Some(bytes) = page.bytes.get(first..first + length) else {
            return Err(self.cut_short(page.at, format!("the segment ends inside the page at {}", page.at)));
        };
        record.push(bytes, &mut self.kept);
        if record.header.is_none() {
            record.header = RecordHeader::read(&self.kept);
            if let Some(header) = &record.header {
                self.check_header(header, record.start, page.major)?;
            }
        }
        self.state = State::Assembling(record);
        if record.got < record.total {
            return Ok(None);
        }
        let next = first + max_align(length as u64) as usize;
        self.complete(page, record, next, visit)?;
        Ok(Some(next).filter(|_| matches!(self.state, State::Between)))
    }

    fn complete(&mut self, page: &Page, record: Assembly, next: usize, visit: &mut Visit) -> Result<(), Halt> {
        let header = record.header.expect("a complete record is longer than its header");
        let crc = crc32c::crc32c_append(record.crc, &self.kept[..CHECKED_HEADER_BYTES]);
        if crc != header.crc {
            return stop(
                record.start,
                format!("the checksum of the record at {} is wrong", record.start),
            );
        }
        let kept = std::mem::take(&mut self.kept);
        let shown = self.show(page, record.start, &header, &kept, next, visit);
        self.kept = kept;
        shown
    }

    /// The records that begin in this page, from `offset` on.
    fn records(&mut self, page: &Page, mut offset: usize, visit: &mut Visit) -> Result<(), Halt> {
        while offset < page.block {
            let start = page.lsn(offset);
            let Some(total) = u32_at(page.bytes, offset) else {
                return stop(start, format!("the segment ends at {}", page.lsn(page.bytes.len())));
            };
            check_length(total, start)?;
            if total as usize > page.block - offset {
                return self.start_assembly(page, offset, total);
            }
            let Some(bytes) = page.bytes.get(offset..offset + total as usize) else {
                return stop(start, format!("the segment ends inside the record at {start}"));
            };
            let header = RecordHeader::read(bytes).expect("the length was checked to hold a header");
            self.check_header(&header, start, page.major)?;
            let crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
            if crc32c::crc32c_append(crc, &bytes[..CHECKED_HEADER_BYTES]) != header.crc {
                return stop(start, format!("the checksum of the record at {start} is wrong"));
            }
            offset += max_align(u64::from(total)) as usize;
            self.show(page, start, &header, bytes, offset, visit)?;
            if matches!(self.state, State::Switched { .. }) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins a record that goes on in the next page.
    fn start_assembly(&mut self, page: &Page, offset: usize, total: u32) -> Result<(), Halt> {
        let start = page.lsn(offset);
        let Some(bytes) = page.bytes.get(offset..page.block) else {
            return stop(start, format!("the segment ends inside the record at {start}"));
        };
        self.kept.clear();
        let mut record = Assembly {
            start,
            total,
            got: 0,
            header: RecordHeader::read(bytes),
            crc: 0,
        };
        record.push(bytes, &mut self.kept);
        if let Some(header) = &record.header {
            self.check_header(header, start, page.major)?;
        }
        self.state = State::Assembling(record);
        Ok(())
    }

    /// `ValidXLogRecordHeader`, once the whole header is at hand.
    fn check_header(&self, header: &RecordHeader, start: Lsn, major: PgMajor) -> Result<(), Halt> {
        if !header.has_known_rmgr(major) {
            return stop(
                start,
                format!("the record at {start} has unknown resource manager {}", header.rmgr),
            );
        }
        match self.last {
            Some(last) if header.prev != last => stop(
                start,
                format!("the record at {start} follows {}, expected {last}", header.prev),
            ),
            None if header.prev >= start => stop(
                start,
                format!("the record at {start} follows {}, which is later", header.prev),
            ),
            _ => Ok(()),
        }
    }

    /// Shows a checked record that ends at offset `next` of the page.
    #[inline]
    fn show(
        &mut self,
        page: &Page,
        start: Lsn,
        header: &RecordHeader,
        kept: &[u8],
        next: usize,
        visit: &mut Visit,
    ) -> Result<(), Halt> {
        let switch = header.is_switch();
        let end = if switch { page.segment.end() } else { page.lsn(next) };
        self.last = Some(start);
        self.state = if switch {
            State::Switched { record: start }
        } else {
            State::Between
        };
        let flow = visit(&Record {
            start,
            end,
            prev: header.prev,
            xid: header.xid,
            rmgr: header.rmgr,
            info: header.info,
            total_bytes: header.total_bytes,
            kept,
            timeline: self.timeline.expect("a page header was read before its records"),
        });
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Interrupted { next: end }),
        }
    }
}

impl Assembly {
    fn push(&mut self, bytes: &[u8], kept: &mut Vec<u8>) {
        let room = WAL_RECORD_BYTES_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let header_left = HEADER_BYTES.saturating_sub(self.got as usize).min(bytes.len());
        self.crc = crc32c::crc32c_append(self.crc, &bytes[header_left..]);
        self.got += bytes.len() as u32;
    }
}

fn check_page_header(
    header: &PageHeader,
    page: &Page,
    identity: &SegmentHeader,
    timeline_before: Option<TimelineId>,
) -> Result<TimelineId, String> {
    if header.magic != identity.page_magic {
        return Err(describe_magic(header.magic, page.bytes));
    }
    header.check_flags()?;
    if header.is_long() {
        check_long_header(page, identity)?;
    } else if page.at == page.segment.start() {
        return Err("it begins a segment and has no long header".into());
    }
    if header.address != page.at {
        return Err(format!("it says that it is the page at {}", header.address));
    }
    let timeline = TimelineId::new(header.timeline).ok_or("its timeline is 0")?;
    if timeline > page.segment.timeline {
        return Err(format!(
            "its timeline {timeline} is newer than the segment's, {}",
            page.segment.timeline
        ));
    }
    match timeline_before {
        Some(before) if timeline < before => Err(format!("its timeline {timeline} comes after timeline {before}")),
        _ => Ok(timeline),
    }
}

fn check_long_header(page: &Page, identity: &SegmentHeader) -> Result<(), String> {
    let long = LongHeader::read(page.bytes).ok_or("the segment ends inside its header")?;
    let differs = |what: &str, found: u64, expected: u64| Err(format!("its {what} is {found}, expected {expected}"));
    if long.system_id != identity.system_id {
        return differs("system identifier", long.system_id.0, identity.system_id.0);
    }
    if u64::from(long.segment_bytes) != identity.segment_size.bytes() {
        return differs(
            "segment size",
            u64::from(long.segment_bytes),
            identity.segment_size.bytes(),
        );
    }
    if long.block_bytes != identity.block_bytes {
        return differs(
            "block size",
            u64::from(long.block_bytes),
            u64::from(identity.block_bytes),
        );
    }
    Ok(())
}

fn check_length(total: u32, start: Lsn) -> Result<(), Halt> {
    match total {
        0 => stop(start, format!("no record begins at {start}")),
        1..24 => stop(
            start,
            format!("the record at {start} claims {total} bytes, fewer than its header has"),
        ),
        RECORD_BYTES_MAX.. => stop(
            start,
            format!("the record at {start} claims {total} bytes, more than one can have"),
        ),
        _ => Ok(()),
    }
}

fn wrong_continuation(at: Lsn, header: &PageHeader, missing: u32) -> String {
    if header.begins_inside_a_record() {
        format!(
            "the page at {at} goes on with {} bytes of a record, expected {missing}",
            header.remaining_bytes
        )
    } else {
        format!("the page at {at} does not go on with it")
    }
}
