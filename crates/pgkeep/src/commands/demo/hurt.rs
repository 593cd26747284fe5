//! Hurts the archive by hand: a changed byte, an object that is taken away.
//!
//! Invariant: whatever happens next, the damage is mended, at the latest when its handle is dropped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pgkeep_base::{Result, ResultExt};

use super::program::quote;

/// Damage, which is mended when dropped.
pub struct Hurt {
    damage: Damage,
    is_mended: bool,
}

enum Damage {
    Flipped { object: PathBuf, offset: u64, was: u8 },
    Taken { object: PathBuf, aside: PathBuf },
}

impl Hurt {
    /// Flips a bit in the middle of a file.
    pub fn flip(object: &Path) -> Result<Hurt> {
        let what = || format!("flip a bit of {}", object.display());
        let file = File::options().read(true).write(true).open(object).during(what)?;
        let offset = file.metadata().during(what)?.len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).during(what)?;
        let was = byte[0];
        let hurt = Hurt::with(Damage::Flipped {
            object: object.to_owned(),
            offset,
            was,
        });
        file.write_all_at(&[flipped(was)], offset).during(what)?;
        Ok(hurt)
    }

    /// Takes a file out of the repository.
    pub fn take(object: &Path, aside: &Path) -> Result<Hurt> {
        std::fs::rename(object, aside).during(|| format!("take {} away", object.display()))?;
        Ok(Hurt::with(Damage::Taken {
            object: object.to_owned(),
            aside: aside.to_owned(),
        }))
    }

    fn with(damage: Damage) -> Hurt {
        Hurt {
            damage,
            is_mended: false,
        }
    }

    /// What did it.
    pub fn command(&self) -> String {
        match &self.damage {
            Damage::Flipped { object, offset, was } => write_byte(object, *offset, flipped(*was)),
            Damage::Taken { object, aside } => rename(object, aside),
        }
    }

    /// What mends it.
    pub fn mending(&self) -> String {
        match &self.damage {
            Damage::Flipped { object, offset, was } => write_byte(object, *offset, *was),
            Damage::Taken { object, aside } => rename(aside, object),
        }
    }

    /// Mends it now, and tells whether that worked.
    pub fn mend(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_mended, true) {
            return Ok(());
        }
        match &self.damage {
            Damage::Flipped { object, offset, was } => File::options()
                .write(true)
                .open(object)
                .and_then(|file| file.write_all_at(&[*was], *offset))
                .during(|| format!("mend {}", object.display())),
            Damage::Taken { object, aside } => {
                std::fs::rename(aside, object).during(|| format!("put {} back", object.display()))
            }
        }
    }
}

impl Drop for Hurt {
    fn drop(&mut self) {
        // Where this fails the archive stays hurt, which pgkeep says to whoever uses it.
        let _ = self.undo();
    }
}

fn flipped(byte: u8) -> u8 {
    byte ^ 0x10
}

fn write_byte(object: &Path, offset: u64, byte: u8) -> String {
    let object = quote(&object.display().to_string());
    format!("printf '\\{byte:03o}' | dd of={object} bs=1 seek={offset} conv=notrunc status=none")
}

fn rename(from: &Path, to: &Path) -> String {
    let [from, to] = [from, to].map(|path| quote(&path.display().to_string()));
    format!("mv {from} {to}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_hurt_is_mended_even_when_nobody_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (object, aside) = (dir.path().join("object"), dir.path().join("aside"));
        std::fs::write(&object, "0123456789").unwrap();
        let hurt = Hurt::flip(&object).unwrap();
        assert_eq!(std::fs::read(&object).unwrap(), b"01234%6789");
        assert_eq!(
            hurt.command(),
            format!(
                "printf '\\045' | dd of={} bs=1 seek=5 conv=notrunc status=none",
                object.display()
            )
        );
        drop(hurt);
        assert_eq!(std::fs::read(&object).unwrap(), b"0123456789");
        let hurt = Hurt::take(&object, &aside).unwrap();
        assert!(!object.exists() && aside.exists());
        hurt.mend().unwrap();
        assert!(object.exists() && !aside.exists());
    }
}
