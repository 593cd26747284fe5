//! `restore --delta` over a cluster that was damaged, and in which others left things.

use super::*;

/// Tables, named for what becomes of their files.
const TABLES: [&str; 7] = ["flipped", "cut", "grown", "lost", "linked", "shared", "replaced"];

/// A stopped cluster, damaged, with a directory beside it that parts of it lead to.
struct Spoilt {
    shop: Shop,
    data: PathBuf,
    outside: PathBuf,
    /// The file of a table.
    paths: Vec<PathBuf>,
    /// What the file's second name shows.
    shared: Vec<u8>,
}

impl Spoilt {
    fn new(major: u16) -> Spoilt {
        let mut shop = shop(major).start();
        for table in TABLES {
            shop.cluster.sql(&format!(
                "CREATE TABLE {table} AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i"
            ));
        }
        shop.pgkeep(["backup"]).ok();
        shop.cluster.sql("DELETE FROM flipped WHERE i > 19000");
        let data = shop.cluster.data_dir().to_owned();
        let paths = TABLES.map(|table| data.join(file_of(&shop.cluster, table))).into();
        shop.cluster.stop(StopMode::Fast);
        let outside = shop.home().dir("outside");
        fs::write(outside.join("precious"), "precious").unwrap();
        let mut spoilt = Spoilt {
            shop,
            data,
            outside,
            paths,
            shared: Vec::new(),
        };
        spoilt.change_files();
        spoilt.replace_files();
        spoilt.leave_things();
        spoilt
    }

    fn path(&self, table: &str) -> &Path {
        let number = TABLES.iter().position(|known| *known == table).unwrap();
        &self.paths[number]
    }

    fn relative(&self, table: &str) -> String {
        let path = self.path(table).strip_prefix(&self.data).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn change_files(&self) {
        let mut bytes = fs::read(self.path("flipped")).unwrap();
        bytes
            .iter_mut()
            .skip(4000)
            .step_by(100_000)
            .for_each(|byte| *byte ^= 0x40);
        fs::write(self.path("flipped"), &bytes).unwrap();
        let cut = fs::File::options().write(true).open(self.path("cut")).unwrap();
        cut.set_len(8192 * 3).unwrap();
        let grown = [fs::read(self.path("grown")).unwrap(), vec![7; 8192 * 5]].concat();
        fs::write(self.path("grown"), grown).unwrap();
        fs::remove_file(self.path("lost")).unwrap();
        fs::set_permissions(self.data.join("PG_VERSION"), fs::Permissions::from_mode(0o666)).unwrap();
    }

    fn replace_files(&mut self) {
        fs::remove_file(self.path("linked")).unwrap();
        symlink(self.outside.join("precious"), self.path("linked")).unwrap();
        let second = self.outside.join("shared");
        fs::hard_link(self.path("shared"), &second).unwrap();
        self.shared = fs::read(&second).unwrap();
        self.shared[5000] ^= 1;
        fs::write(&second, &self.shared).unwrap();
        fs::remove_file(self.path("replaced")).unwrap();
        fs::create_dir(self.path("replaced")).unwrap();
        fs::write(self.path("replaced").join("inner"), "x").unwrap();
    }

    fn leave_things(&self) {
        fs::create_dir_all(self.data.join("mine/notes")).unwrap();
        fs::write(self.data.join("mine/notes/todo"), "feed the cat").unwrap();
        fs::write(self.data.join("base/dump.sql"), "").unwrap();
        symlink(&self.outside, self.data.join("mine/way-out")).unwrap();
    }

    /// What is in it that root made is refused to others; then PostgreSQL's user owns it.
    fn give_away(&self) {
        if OsUser::current().is_root() {
            let refused = delta(&self.shop, &self.data, [""; 0]).run().expect(4);
            let told = refused.stderr.contains("belongs to another user");
            assert!(told, "root made these: {refused}");
            assert!(!self.data.join(".pgkeep").exists(), "{refused}");
        }
        let made = [self.data.join("mine"), self.data.join("mine/notes")];
        for made in made.iter().map(PathBuf::as_path).chain([self.path("replaced")]) {
            self.shop.cluster.user().own(made);
        }
    }

    /// The plan names what PostgreSQL did not make, and changes nothing.
    fn check_plan(&self) {
        let plan = delta(&self.shop, &self.data, ["--dry-run"]).run().ok().json();
        let named = plan["over"]["foreign"].as_array().unwrap();
        let mut foreign: Vec<&str> = named.iter().map(|path| path.as_str().unwrap()).collect();
        foreign.sort_unstable();
        let (inner, linked) = (self.relative("replaced") + "/inner", self.relative("linked"));
        let mut expected = [&*inner, &*linked, "base/dump.sql", "mine/notes/todo", "mine/way-out"];
        expected.sort_unstable();
        assert_eq!(foreign, expected, "{plan}");
        assert!(self.data.join("mine/notes/todo").exists());
    }

    /// Nothing outside was touched.
    fn check_outside(&self) {
        assert_eq!(fs::read_to_string(self.outside.join("precious")).unwrap(), "precious");
        assert!(fs::read(self.outside.join("shared")).unwrap() == self.shared);
    }
}

/// Aim: whatever became of files, each is as the backup has it afterwards, and nothing outside was touched: flipped bytes,
/// cut, grown and lost files, other modes, links in the place of files, files with a second name elsewhere, directories in
/// the place of files; what the operator put there is named before it goes.
#[test]
fn every_kind_of_damage_is_repaired() {
    for major in [14, 18] {
        let mut spoilt = Spoilt::new(major);
        spoilt.give_away();
        spoilt.check_plan();
        let data = spoilt.data.clone();
        let done = delta(&spoilt.shop, &data, [""; 0]).run().ok();
        assert!(done.json()["written"]["removed"].as_u64().unwrap() >= 3, "{done}");
        assert!(!data.join("mine").exists() && !data.join("base/dump.sql").exists());
        assert_eq!(fs::metadata(data.join("PG_VERSION")).unwrap().mode() & 0o777, 0o600);
        spoilt.check_outside();
        let cluster = &mut spoilt.shop.cluster;
        cluster.start();
        cluster.wait_recovered();
        assert_eq!(cluster.sql("SELECT count(*) FROM flipped"), "19000");
        for table in &TABLES[1..] {
            let counted = cluster.sql(&format!("SELECT count(*), max(i) FROM {table}"));
            assert_eq!(counted, "20000|20000", "{table}");
        }
        cluster.check_structure();
        cluster.stop(StopMode::Fast);
        cluster.check_pages();
    }
}
