//! The cluster that both tools protect: six committed rows, each in a WAL segment of its own, over two timelines.

use std::fs;

use pgkeep_base::Lsn;
use pgkeep_testkit::{Cluster, Run, Scratch, StopMode};

use crate::tool::Tool;

/// Rows that are committed behind the backup.
pub const ROWS: u32 = 6;
/// So many of them before the promotion.
const BEFORE: u32 = 3;

/// A tool with a finished archive, which can be brought back as it was.
pub struct Source {
    tool: Box<dyn Tool>,
    version: String,
    /// The segment that holds the commit of each row, from 1.
    segments: Vec<String>,
    last: Lsn,
    pristine: Scratch,
}

impl Source {
    /// Backs up, commits, archives, promotes, commits, archives; then stops the server.
    pub fn make(mut tool: Box<dyn Tool>) -> Source {
        tool.cluster().sql("CREATE TABLE kept (row int, filler text)");
        tool.back_up();
        let mut segments = Vec::new();
        let mut last = Lsn(0);
        for row in 1..=ROWS {
            if row == BEFORE + 1 {
                promote(tool.cluster_mut());
            }
            let cluster = tool.cluster();
            cluster.sql(&format!("INSERT INTO kept VALUES ({row}, repeat('x', 500))"));
            last = cluster.lsn();
            segments.push(cluster.archive_all());
        }
        let version = tool.cluster().version();
        tool.cluster_mut().stop(StopMode::Fast);
        let pristine = Scratch::new();
        copy(&tool.repository(), &pristine.join("repository"));
        Source {
            tool,
            version,
            segments,
            last,
            pristine,
        }
    }

    pub fn tool(&self) -> &dyn Tool {
        &*self.tool
    }

    /// Of PostgreSQL.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The segment that holds the commit of a row.
    pub fn segment_of(&self, row: u32) -> &str {
        &self.segments[row as usize - 1]
    }

    /// Where the log ended when the last row had been committed.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Undoes all damage, and whatever a restored copy has archived.
    pub fn mend(&self) {
        fs::remove_dir_all(self.tool.repository()).unwrap();
        copy(&self.pristine.join("repository"), &self.tool.repository());
    }
}

/// The same server goes on, on the next timeline.
fn promote(cluster: &mut Cluster) {
    cluster.stop(StopMode::Fast);
    let signal = cluster.data_dir().join("standby.signal");
    fs::write(&signal, "").unwrap();
    cluster.user().own(&signal);
    cluster.start();
    cluster.promote();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    Run::new("/bin/cp").arg("-a").arg(from).arg(to).run().ok();
}
