//! The oracle's rows: the table, the hash chain, what a writer puts into a transaction.

use rand::Rng;
use rand::rngs::StdRng;

/// Where each writer's chain begins.
pub(super) const GENESIS: &str = "genesis";

/// One row, visible or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) writer: u32,
    pub(super) seq: u64,
    pub(super) payload: String,
    pub(super) prev: String,
    pub(super) hash: String,
}

impl Row {
    /// The row that follows one with the hash `prev`.
    pub(super) fn new(writer: u32, seq: u64, prev: &str, payload: String) -> Row {
        let hash = hash(writer, seq, prev, &payload);
        Row {
            writer,
            seq,
            payload,
            prev: prev.to_owned(),
            hash,
        }
    }

    /// Whether the hash is that of the other columns.
    pub(super) fn is_sound(&self) -> bool {
        self.hash == hash(self.writer, self.seq, &self.prev, &self.payload)
    }

    /// The statement that inserts it. Every value is of our own making and needs no quoting.
    pub(super) fn insert(&self, rolled_back: bool) -> String {
        let Row {
            writer,
            seq,
            payload,
            prev,
            hash,
        } = self;
        format!("INSERT INTO oracle VALUES ({writer}, {seq}, '{payload}', '{prev}', '{hash}', {rolled_back})")
    }

    /// The table that a transaction with DDL makes besides.
    pub(super) fn made_table(&self) -> String {
        made_table(self.writer, self.seq)
    }
}

pub(super) fn made_table(writer: u32, seq: u64) -> String {
    format!("oracle_made_{writer}_{seq}")
}

pub(super) fn create_table(client: &mut postgres::Client) -> Result<(), postgres::Error> {
    client.batch_execute(
        "CREATE TABLE oracle(writer int, seq bigint, payload text, prev text, hash text, rolled_back bool, \
         PRIMARY KEY (writer, seq))",
    )
}

/// Mostly some hundred bytes; once in fifty up to 16 kB, which does not compress and so is TOASTed.
pub(super) fn payload(rng: &mut StdRng) -> String {
    let length = if rng.random_ratio(1, 50) {
        rng.random_range(4_000..16_000)
    } else {
        rng.random_range(20..300)
    };
    rng.sample_iter(rand::distr::Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}

fn hash(writer: u32, seq: u64, prev: &str, payload: &str) -> String {
    let text = format!("{writer} {seq} {prev} {payload}");
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}
