//! A copy of a life's repository, to be damaged, and the clusters restored from it.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use pgkeep_base::Lsn;
use pgkeep_testkit::corrupt::objects_like;
use pgkeep_testkit::fixture::{Shop, reachable};
use pgkeep_testkit::postgres::bin_dir;
use pgkeep_testkit::{Cluster, Damage, Damaged, OsUser, Output, Run, Scratch};

/// A repository of one's own, with the configuration that names it.
pub struct Branch {
    major: u16,
    binary: PathBuf,
    home: Scratch,
}

impl Branch {
    /// A copy of configuration and repository, to be damaged.
    pub(super) fn of(shop: &Shop) -> Branch {
        let home = Scratch::new();
        let from = shop.home();
        let copy = |name: &str| {
            let cp = Run::new("/bin/cp")
                .args(["-al"])
                .arg(from.join(name))
                .arg(home.join(name));
            cp.run().ok();
        };
        copy("repository");
        for name in ["repository.toml", "signing.key", "identity.txt"] {
            copy(name);
        }
        let toml = std::fs::read_to_string(shop.config_file()).unwrap();
        let (old, new) = (from.path().to_str().unwrap(), home.path().to_str().unwrap());
        home.file("pgkeep.toml", toml.replace(old, new));
        let binary = reachable(env!("CARGO_BIN_EXE_pgkeep"));
        Branch {
            major: shop.cluster.major(),
            binary,
            home,
        }
    }

    /// Runs pgkeep with this configuration, as the user that owns the cluster.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.bare().args(["--config", &self.config()]).args(args)
    }

    /// Runs pgkeep without naming a configuration.
    pub fn bare(&self) -> Run {
        Run::new(&self.binary)
            .env("HOME", self.home.path())
            .env("LD_LIBRARY_PATH", bin_dir(self.major).with_file_name("lib"))
            .as_user(OsUser::unprivileged())
    }

    /// Adds lines to its configuration file.
    pub fn configure(&self, toml: &str) {
        let before = std::fs::read_to_string(self.config()).unwrap();
        self.home.file("pgkeep.toml", before + "\n" + toml);
    }

    /// What any other program can run.
    pub fn command_line(&self) -> String {
        format!("{} --config {}", self.binary.display(), self.config())
    }

    /// Its configuration file.
    pub fn config(&self) -> String {
        self.home.join("pgkeep.toml").display().to_string()
    }

    /// A directory for the test's own files.
    pub fn home(&self) -> &Scratch {
        &self.home
    }

    /// The directory of its repository.
    pub fn repository(&self) -> PathBuf {
        self.home.join("repository/main")
    }

    /// The directory of all its WAL.
    pub fn wal_directory(&self) -> PathBuf {
        self.repository().join("wal")
    }

    /// The largest segment number that a timeline has.
    pub fn last_number(&self, timeline: u32) -> u64 {
        let names = objects_like(&self.wal_directory(), &format!("/{timeline:08X}/{timeline:08X}0"));
        let number = |name: &String| {
            let name = name.rsplit('/').next().unwrap();
            // 1 MiB segments: 4096 to each 4 GiB.
            u64::from_str_radix(&name[8..16], 16).unwrap() * 4096 + u64::from_str_radix(&name[16..24], 16).unwrap()
        };
        names.iter().map(number).max().unwrap()
    }

    /// The one object whose name ends in `name` and a hash.
    #[track_caller]
    pub fn object(&self, name: &str) -> String {
        let mut names = objects_like(&self.repository(), &format!("/{name}-"));
        assert_eq!(names.len(), 1, "{names:?}");
        names.remove(0)
    }

    /// Damages the one object of a WAL file.
    #[track_caller]
    pub fn damage(&self, name: &str, damage: Damage) -> Damaged {
        Damaged::new(&self.repository(), &self.object(name), damage)
    }

    /// Removes the one object of a WAL file for good.
    #[track_caller]
    pub fn remove(&self, name: impl std::fmt::Display) {
        self.damage(&name.to_string(), Damage::Delete).keep();
    }

    /// Restores, and starts nothing.
    #[track_caller]
    pub fn restore(&self, options: &[&str]) -> Copy {
        restore(self.major, |args| self.run(args), options)
    }

    /// A restore that must be refused with `code`, before anything is touched; gives what it said.
    #[track_caller]
    pub fn refuse(&self, code: i32, options: &[&str]) -> Output {
        let scratch = Scratch::new();
        let target = scratch.join("data");
        let run = self.run(["restore", "--into"]).arg(&target).args(options);
        let output = run.run().expect(code);
        assert!(!target.exists(), "{output}");
        output
    }
}

/// The moments that a refusal offers instead, as LSNs.
pub fn offered(refused: &Output) -> Vec<Lsn> {
    let words = refused.stderr.split("--lsn ").skip(1);
    let lsn = |rest: &str| rest.split([')', ',', ';', ' ', '\n']).next()?.parse().ok();
    words.filter_map(lsn).collect()
}

#[track_caller]
pub(super) fn restore(major: u16, run: impl Fn([&str; 2]) -> Run, options: &[&str]) -> Copy {
    let scratch = Scratch::new();
    let target = scratch.join("data");
    run(["restore", "--into"]).arg(&target).args(options).run().ok();
    Copy {
        cluster: Cluster::adopt_dir(major, target),
        _scratch: scratch,
    }
}

/// A restored cluster, removed when dropped.
pub struct Copy {
    cluster: Cluster,
    _scratch: Scratch,
}

impl Copy {
    /// Starts it and waits until it is open for writing.
    #[track_caller]
    pub fn opened(mut self) -> Copy {
        self.start();
        self.wait_recovered();
        self
    }

    /// Starts it and waits until replay has paused.
    #[track_caller]
    pub fn paused(mut self) -> Copy {
        self.start();
        self.wait_paused();
        self
    }
}

impl Deref for Copy {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Copy {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
