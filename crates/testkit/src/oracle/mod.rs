//! The commit oracle: writers that log every acknowledged commit outside the cluster, and the check after a restore.
//!
//! Each writer inserts rows `(writer, seq, payload, prev, hash)`, where `hash` covers the row and the previous one's
//! hash, with aborts, two-phase commits, DDL and TOASTed values in between, and, where asked for, bulk loads (`bulk`). Once the server has acknowledged a commit,
//! a line goes to the [`Ledger`], which knows between which two LSNs and times the commit happened.
//! [`Ledger::check`] then says whether a restored cluster holds exactly what the moment that was asked for promises.
//! The invariants are I1 (no acknowledged commit lost), I2 (no later row without the earlier ones, none altered) and
//! I3 (nothing from after the moment, nothing that was rolled back).

mod bulk;
mod check;
mod ledger;
mod row;
mod writer;

#[cfg(test)]
mod tests;

pub use check::{Checked, Upto};
pub use ledger::{Commit, Kind, Ledger};

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::postgres::Cluster;
use crate::scratch::Scratch;
use crate::wait;
use writer::{Shared, Writer};

/// Which writers; see [`Oracle::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    conninfo: String,
    writers: u32,
    seed: Option<u64>,
    pause: Duration,
    heavy: bool,
    tablespace: Option<String>,
    before: Option<Ledger>,
}

impl Builder {
    /// How many write at once; 4 by default.
    #[must_use]
    pub fn writers(mut self, writers: u32) -> Builder {
        self.writers = writers;
        self
    }

    /// What decides on payloads, aborts and so on; printed when it isn't given. `PGKEEP_TEST_SEED` overrides both.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Builder {
        self.seed = Some(seed);
        self
    }

    /// How long each writer rests between transactions; 2 ms by default, so that others get to run too.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Builder {
        self.pause = pause;
        self
    }

    /// Lets them also replace bulk loads, vacuum, and write into an unlogged table.
    #[must_use]
    pub fn heavy(mut self) -> Builder {
        self.heavy = true;
        self
    }

    /// Puts what heavy writers make into a tablespace.
    #[must_use]
    pub fn tablespace(mut self, name: &str) -> Builder {
        self.tablespace = Some(name.to_owned());
        self
    }

    /// Goes on where an earlier oracle stopped, on a cluster that holds just what `ledger` says.
    #[must_use]
    pub fn resume(mut self, ledger: Ledger) -> Builder {
        self.before = Some(ledger);
        self
    }

    /// Makes the tables, unless it resumes, and lets the writers write.
    ///
    /// # Panics
    /// When the tables can't be made.
    pub fn start(self) -> Oracle {
        let known = crate::seed::given().or(self.seed);
        let seed = known.unwrap_or_else(|| crate::seed::seed("oracle"));
        if self.before.is_none() {
            self.create_tables();
        }
        let scratch = Scratch::new();
        let path = scratch.join("ledger");
        let before = self.before.unwrap_or_default();
        let shared = Arc::new(Shared::new(self.conninfo, &path, self.pause, self.heavy));
        shared.begin_with(&before);
        let threads = (0..self.writers)
            .map(|number| Writer::new(number, seed, Arc::clone(&shared), before.newest_of(number)))
            .map(|writer| std::thread::spawn(move || writer.write()))
            .collect();
        Oracle {
            shared,
            threads,
            path,
            _scratch: scratch,
        }
    }

    fn create_tables(&self) {
        let conninfo = &self.conninfo;
        let mut client = postgres::Client::connect(conninfo, postgres::NoTls)
            .unwrap_or_else(|error| panic!("connect to {conninfo}: {error}"));
        let made = row::create_table(&mut client).and_then(|()| match self.heavy {
            true => bulk::create_tables(&mut client, self.tablespace.as_deref()),
            false => Ok(()),
        });
        made.unwrap_or_else(|error| panic!("create the oracle's tables: {error}"));
    }
}

/// Writers at work on a cluster.
#[derive(Debug)]
pub struct Oracle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    path: PathBuf,
    _scratch: Scratch,
}

impl Oracle {
    /// Writers for the database `postgres` of a running cluster.
    pub fn builder(cluster: &Cluster) -> Builder {
        Builder {
            conninfo: cluster.conninfo(),
            writers: 4,
            seed: None,
            pause: Duration::from_millis(2),
            heavy: false,
            tablespace: None,
            before: None,
        }
    }

    /// Starts `writers` writers.
    pub fn start(cluster: &Cluster, writers: u32) -> Oracle {
        Oracle::builder(cluster).writers(writers).start()
    }

    /// How many commits have been acknowledged.
    pub fn commits(&self) -> u64 {
        self.shared.commits()
    }

    /// Waits until `more` further commits have been acknowledged.
    ///
    /// # Panics
    /// After a minute without.
    pub fn wait_for(&self, more: u64) {
        let goal = self.commits() + more;
        wait::until("the oracle's writers", wait::LIMIT, || {
            (self.commits() >= goal).then_some(())
        });
    }

    /// What has been acknowledged so far; the writers go on.
    pub fn ledger(&self) -> Ledger {
        Ledger::read(&self.path)
    }

    /// Ends the writers, each after its transaction, and gives all that was acknowledged. The server need not run.
    ///
    /// # Panics
    /// When a writer has seen the running server lose or alter what it had acknowledged.
    pub fn stop(mut self) -> Ledger {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.ledger()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A failing test must not wait for it to fail twice.
            let _ = thread.join();
        }
    }
}
