//! Where the records of a TLS stream begin and end, told by their plaintext headers.

/// Content type of application data.
const APPLICATION_DATA: u8 = 23;
const HEADER_BYTES: usize = 5;

/// Follows one direction of a TLS connection from its first byte.
#[derive(Debug, Default)]
pub(super) struct Records {
    header: Vec<u8>,
    /// Bytes of the current record's body that are still to come.
    body_left: usize,
    /// Bytes until the middle of a record of application data.
    middle: Option<usize>,
}

impl Records {
    /// Takes the next bytes; the length of the part of them that ends in the middle of a record, if one does.
    pub(super) fn follow(&mut self, piece: &[u8]) -> Option<usize> {
        let mut middle = None;
        let mut at = 0;
        while at < piece.len() {
            if self.body_left == 0 {
                self.header.push(piece[at]);
                at += 1;
                if self.header.len() == HEADER_BYTES {
                    self.begin_record();
                }
                continue;
            }
            let step = self.body_left.min(piece.len() - at);
            match self.middle {
                Some(left) if left <= step => {
                    middle = middle.or(Some(at + left));
                    self.middle = None;
                }
                Some(left) => self.middle = Some(left - step),
                None => {}
            }
            self.body_left -= step;
            at += step;
        }
        middle
    }

    fn begin_record(&mut self) {
        self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        self.middle = (self.header[0] == APPLICATION_DATA).then_some(self.body_left / 2);
        self.header.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_application_data_is_found_in_pieces_of_any_size() {
        let handshake = [&[22, 3, 3, 0, 4][..], &[9; 4]].concat();
        let data = [&[23, 3, 3, 0, 10][..], &[7; 10]].concat();
        let stream = [handshake, data].concat();
        for size in 1..stream.len() {
            let mut records = Records::default();
            let mut before = 0;
            let mut cuts = Vec::new();
            for piece in stream.chunks(size) {
                cuts.extend(records.follow(piece).map(|at| before + at));
                before += piece.len();
            }
            assert_eq!(cuts, [9 + 5 + 5], "in pieces of {size}");
        }
    }
}
