//! A small file system of a test's own: one that can be full, and one that can lose power.
//!
//! Both need root, the second a free loop device; [`Disk::memory`] and [`Disk::ext4`] give nothing without, and note in
//! the matrix what was not run. Invariant: it is unmounted when its owner is dropped or the test process has died.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::run::{Output, Run};
use crate::scratch::Scratch;
use crate::user::OsUser;
use crate::{matrix, reaper, wait};

/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written any more.
const NO_LOG_FLUSH: u32 = 2;

/// A mounted file system, owned by the unprivileged user.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    /// Of a loop device; none in memory.
    image: Option<PathBuf>,
    _scratch: Scratch,
}

impl Disk {
    /// A file system in memory, with these options of tmpfs (`size=8m`).
    pub fn memory(options: &str, what: &str) -> Option<Disk> {
        let scratch = Scratch::new();
        let at = scratch.dir("disk");
        let mounted = OsUser::current().is_root().then(|| {
            let options = format!("mode=755,{options}");
            tool("mount")
                .args(["-t", "tmpfs", "-o", &options, "pgkeep-test"])
                .arg(&at)
                .run()
        });
        Disk::mounted(at, None, scratch, mounted, what)
    }

    /// A new ext4 of so many MiB on a loop device.
    pub fn ext4(mib: u64, what: &str) -> Option<Disk> {
        let scratch = Scratch::new();
        let (at, image) = (scratch.dir("disk"), scratch.join("image"));
        let mounted = OsUser::current().is_root().then(|| {
            let file = File::create(&image).expect("our own scratch");
            file.set_len(mib << 20).expect("a sparse file takes no space");
            tool("mkfs.ext4").args(["-q", "-F"]).arg(&image).run().ok();
            mount(&image, &at)
        });
        Disk::mounted(at, Some(image), scratch, mounted, what)
    }

    fn mounted(
        at: PathBuf,
        image: Option<PathBuf>,
        scratch: Scratch,
        mounted: Option<Output>,
        what: &str,
    ) -> Option<Disk> {
        match mounted {
            Some(output) if output.code == Some(0) => {}
            Some(output) => {
                matrix::not_run(what, output.stderr.trim());
                return None;
            }
            None => {
                matrix::not_run(what, "only root can mount");
                return None;
            }
        }
        reaper::watch_mount(&at);
        let disk = Disk {
            at,
            image,
            _scratch: scratch,
        };
        fs::set_permissions(&disk.at, fs::Permissions::from_mode(0o755)).expect("we have just mounted it");
        OsUser::unprivileged().own(&disk.at);
        Some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Gives a file system in memory other options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        tool("mount").args(["-o", &options]).arg(&self.at).run().ok();
    }

    /// Fills it to the last byte with a file that dropping the result removes.
    pub fn fill(&self) -> Filler {
        use std::io::Write as _;
        let path = self.at.join("filler");
        let mut file = File::create(&path).expect("an entry still fits");
        for piece in [1 << 16, 4096, 1] {
            while file.write_all(&vec![0xAA; piece]).is_ok() {}
        }
        Filler(path)
    }

    /// The power fails, and comes back: whatever is not durable is lost, then the file system is mounted again.
    ///
    /// # Panics
    /// When this is no disk but memory.
    pub fn cut_power(&self) {
        let image = self
            .image
            .as_ref()
            .expect("a file system in memory has no power to lose");
        shut_down(&File::open(&self.at).expect("it is mounted"));
        // A program that another thread is just starting may hold our own descriptor for a moment.
        wait::until("the disk to be let go", wait::LIMIT, || {
            (tool("umount").arg(&self.at).run().code == Some(0)).then_some(())
        });
        mount(image, &self.at).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = tool("umount").arg("-l").arg(&self.at).run();
        if unmounted.code != Some(0) {
            eprintln!("{unmounted}");
        }
        reaper::forget_mount(&self.at);
    }
}

/// What fills a disk, until it is dropped.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

fn mount(image: &Path, at: &Path) -> Output {
    tool("mount")
        .args(["-t", "ext4", "-o", "loop"])
        .arg(image)
        .arg(at)
        .run()
}

/// A program of the system's, which may be where only root looks.
fn tool(name: &str) -> Run {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
    let found = places.iter().find(|path| path.exists());
    Run::new(found.unwrap_or_else(|| panic!("{name} is not there")))
}

#[expect(
    unsafe_code,
    reason = "a file system is told to shut down by an ioctl, which takes a pointer to a number"
)]
fn shut_down(directory: &File) {
    // SAFETY: the kernel reads one u32 from where this opcode says, and keeps no reference to it.
    let stopped = unsafe {
        let flags = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(directory, flags)
    };
    stopped.expect("an ext4 can be shut down by root");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: a power cut here really loses what nobody made durable, and keeps what somebody did.
    #[test]
    fn what_is_not_synced_is_lost() {
        let Some(disk) = Disk::ext4(16, "the power cut's own test") else {
            return;
        };
        let synced = disk.path().join("synced");
        fs::write(&synced, [7; 9000]).unwrap();
        File::open(&synced).unwrap().sync_all().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        fs::write(disk.path().join("lost"), [7; 9000]).unwrap();
        fs::rename(&synced, disk.path().join("renamed")).unwrap();
        disk.cut_power();
        assert_eq!(fs::read(&synced).unwrap(), [7; 9000]);
        assert!(!disk.path().join("renamed").exists());
        assert_ne!(fs::read(disk.path().join("lost")).unwrap_or_default(), [7; 9000]);
    }

    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room() {
        let Some(disk) = Disk::memory("size=1m", "the full disk's own test") else {
            return;
        };
        let file = disk.path().join("file");
        let filler = disk.fill();
        let error = fs::write(&file, [1; 4096]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        drop(filler);
        fs::write(&file, [1; 4096]).unwrap();
    }
}
