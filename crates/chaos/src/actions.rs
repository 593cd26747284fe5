//! What is done to a host while its load runs: ordinary work, and faults.
//!
//! Invariant: each action leaves things such that the next can be done (the server runs, what was taken away is back),
//! except for what [`World::heal`] ends. Nothing here asks that a command succeeds; what a success claims is noted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pgkeep_testkit::faults::disk::Disk;
use pgkeep_testkit::{Rule, Running, S3Fault, Signal, StopMode, TcpProxy, Trouble, wait};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, kill_process};

use crate::draw::{Action, Kind};
use crate::world::{Storage, World};

impl World {
    /// Does one action, with some load behind it.
    pub fn do_action(&mut self, action: Action) {
        match action {
            Action::Backup { full } => self.backup(full),
            Action::Mark => self.mark(),
            Action::Switch => self.switch(),
            Action::Look => {
                for command in [&["status"][..], &["list"], &["window"], &["wal", "list"]] {
                    self.act("look", self.run(command));
                }
            }
            Action::Fault(kind, number) => self.fault(kind, &mut StdRng::seed_from_u64(number)),
        }
        self.load(20);
    }

    fn fault(&mut self, kind: Kind, rng: &mut StdRng) {
        match kind {
            Kind::KillCommand => self.kill_command(rng),
            Kind::StopCommand => self.stop_command(rng),
            Kind::Crash => self.crash(rng),
            Kind::KillArchiver => self.kill_archiver(),
            Kind::Failover => self.fail_over(rng),
            Kind::FullPlace => self.while_full(|world| world.place_disk()),
            Kind::FullState => self.while_full(|world| world.state_disk.as_ref()),
            Kind::FullWal => self.fill_wal(),
            Kind::PowerCut => self.cut_power(rng),
            Kind::Unreachable => self.make_unreachable(rng),
            Kind::S3Answers => self.answer_wrongly(rng),
            Kind::S3Bytes => self.break_connections(rng),
            Kind::PgBytes => self.break_session(rng),
            Kind::StateLost => self.lose_state(),
            Kind::ClockJump => self.jump(rng),
            // A thread of its own, and what comes with the end.
            Kind::KillPush | Kind::PlaceLost | Kind::ObjectsDamaged => {}
        }
    }

    /// Ends what faults have left.
    pub fn heal(&mut self) {
        for place in &self.places {
            match &place.storage {
                Storage::Bucket { answers, bytes, .. } => {
                    answers.heal();
                    bytes.heal();
                }
                Storage::Directory { path, .. } => set_mode(path, 0o755),
            }
        }
        if let Some(clock) = &self.clock {
            clock.shift(0);
        }
    }

    fn backup(&mut self, full: bool) {
        let run = self.run(["--json", "backup"]).args(full.then_some("--full"));
        let output = self.act("backup", run);
        self.note_backup(&output);
    }

    /// 3 is a finished backup, too: an optional place lacks it.
    fn note_backup(&mut self, output: &pgkeep_testkit::Output) {
        if matches!(output.code, Some(0 | 3)) {
            self.claims.backup(&output.json());
        }
    }

    fn mark(&mut self) {
        let name = format!("mark-{}", self.next_name());
        let output = self.act("mark", self.run(["--json", "mark", &name]));
        if output.code == Some(0) {
            self.claims.mark(&output.json());
        }
    }

    /// The server may be in the middle of a crash restart, which the load behind this outlives.
    fn switch(&mut self) {
        let _ = self.shop.cluster.try_sql("SELECT pg_switch_wal()");
    }

    /// A backup or a mark that runs for some moments.
    fn begin(&mut self, rng: &mut StdRng) -> (&'static str, Running) {
        let name = format!("mark-{}", self.next_name());
        let (what, args) = match rng.random_range(0..4) {
            0 => ("mark", vec!["--json", "mark", &name]),
            1 => ("backup", vec!["--json", "backup", "--full"]),
            _ => ("backup", vec!["--json", "backup"]),
        };
        let running = self.run(args).spawn();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
        (what, running)
    }

    /// Waits for what [`World::begin`] began.
    fn finish(&mut self, what: &str, running: Running) {
        let output = running.wait();
        self.count(what, &output);
        match what {
            "backup" => self.note_backup(&output),
            _ if output.code == Some(0) => self.claims.mark(&output.json()),
            _ => {}
        }
    }

    fn kill_command(&mut self, rng: &mut StdRng) {
        let (what, mut running) = self.begin(rng);
        running.signal(Signal::KILL);
        let before = std::mem::replace(&mut self.killing, true);
        self.finish(what, running);
        self.killing = before;
    }

    fn stop_command(&mut self, rng: &mut StdRng) {
        let (what, mut running) = self.begin(rng);
        running.signal(Signal::STOP);
        self.load(30);
        if rng.random() {
            self.backup(false);
        }
        running.signal(Signal::CONT);
        self.finish(what, running);
    }

    fn crash(&mut self, rng: &mut StdRng) {
        match rng.random() {
            true => self.shop.cluster.kill9(),
            false => self.shop.cluster.stop(StopMode::Immediate),
        }
        self.look();
        self.shop.cluster.start();
    }

    fn kill_archiver(&mut self) {
        let asked = self
            .shop
            .cluster
            .try_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'");
        let pid = asked
            .ok()
            .and_then(|pid| pid.trim().parse().ok())
            .and_then(Pid::from_raw);
        // It may have ended by itself just now, as it does after a failure.
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn place_disk(&self) -> Option<&Disk> {
        self.places.iter().find_map(|place| match &place.storage {
            Storage::Directory { disk, .. } => disk.as_ref(),
            Storage::Bucket { .. } => None,
        })
    }

    /// Work while a disk is full.
    fn while_full(&mut self, disk: impl Fn(&World) -> Option<&Disk>) {
        let Some(filler) = disk(self).map(Disk::fill) else {
            return;
        };
        self.switch();
        self.load(40);
        self.backup(false);
        drop(filler);
    }

    /// PostgreSQL can't write WAL, panics, and is started again once there is room.
    fn fill_wal(&mut self) {
        let Some(filler) = self.wal_disk.as_ref().map(Disk::fill) else {
            return;
        };
        let oracle = self.oracle.as_ref().expect("the load runs");
        let mut before = oracle.commits();
        wait::try_until(Duration::from_secs(6), || {
            std::thread::sleep(Duration::from_millis(300));
            let now = oracle.commits();
            (std::mem::replace(&mut before, now) == now).then_some(())
        });
        drop(filler);
        if wait::try_until(Duration::from_secs(3), || {
            (!self.shop.cluster.is_running()).then_some(())
        })
        .is_some()
        {
            self.shop.cluster.start();
        }
    }

    fn cut_power(&mut self, rng: &mut StdRng) {
        let begun = rng.random::<bool>().then(|| self.begin(rng));
        self.switch();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
        if let Some(disk) = self.place_disk() {
            disk.cut_power();
        }
        if let Some((what, running)) = begun {
            self.finish(what, running);
        }
    }

    fn make_unreachable(&mut self, rng: &mut StdRng) {
        let place = rng.random_range(0..self.places.len());
        let silent = rng.random();
        let close = |world: &World, closed: bool| match &world.places[place].storage {
            Storage::Directory { path, .. } => set_mode(path, if closed { 0o000 } else { 0o755 }),
            Storage::Bucket { bytes, .. } if !closed => bytes.heal(),
            Storage::Bucket { bytes, .. } if silent => bytes.set(Trouble::BlackHole { after: 0 }),
            Storage::Bucket { bytes, .. } => bytes.set(Trouble::Refuse),
        };
        close(self, true);
        self.switch();
        self.load(40);
        self.backup(false);
        close(self, false);
    }

    fn answer_wrongly(&mut self, rng: &mut StdRng) {
        for place in &self.places {
            let Storage::Bucket { answers, .. } = &place.storage else {
                continue;
            };
            for _ in 0..rng.random_range(1..4) {
                let fault = *S3Fault::PASSING.choose(rng).expect("there are some");
                answers.rule(Rule::new(fault).one_in(rng.random_range(3..12)));
            }
        }
        self.backup(false);
    }

    fn break_connections(&mut self, rng: &mut StdRng) {
        let after = rng.random_range(0..200_000);
        let trouble = match rng.random_range(0..4) {
            0 => Trouble::Refuse,
            1 => Trouble::HalfClose { after },
            2 => Trouble::Latency(Duration::from_millis(20)),
            _ => Trouble::Reset { after },
        };
        for place in &self.places {
            if let Storage::Bucket { bytes, .. } = &place.storage {
                bytes.strike(trouble, rng.random_range(1..6));
            }
        }
        self.backup(false);
    }

    fn break_session(&mut self, rng: &mut StdRng) {
        let proxy = TcpProxy::start(self.shop.cluster.port());
        let after = rng.random_range(0..20_000);
        proxy.set(if rng.random() {
            Trouble::Reset { after }
        } else {
            Trouble::HalfClose { after }
        });
        let through = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port());
        let run = self
            .run(["--json", "backup"])
            .env("PGKEEP_CLUSTER__SHOP__CONNECTION", through);
        let output = self.act("backup", run);
        self.note_backup(&output);
    }

    fn lose_state(&mut self) {
        let state = self.shop.state_dir();
        let lost = state.with_file_name(format!("lost-{}", self.next_name()));
        // At once, since the archiver may be writing to it; it may not have been made yet.
        if fs::rename(&state, &lost).is_ok() {
            let _ = fs::remove_dir_all(lost);
        }
    }

    fn jump(&mut self, rng: &mut StdRng) {
        let far = [-86_400, -3_600, -900, -20, 20, 900, 3_600, 86_400];
        if let Some(clock) = &self.clock {
            clock.shift(*far.choose(rng).expect("there are some"));
        }
        self.switch();
        self.load(20);
        self.backup(false);
    }
}

fn set_mode(path: &std::path::Path, mode: u32) {
    let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set.unwrap_or_else(|error| panic!("set the mode of {}: {error}", path.display()));
}
