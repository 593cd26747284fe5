//! A flipped byte and a missing segment: what can't be recovered must be refused, before anything is touched.
//!
//! Invariant: the archive is hurt by hand, and everything after that is the product's own doing: its refusal, its
//! diagnosis, and its claim how far recovery is possible, which is put to the test. Whatever happens, the archive is
//! mended again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pgkeep_base::{Error, Lsn, Result, ResultExt, SegmentSize, WalSegment};

use super::act::restore_arguments;
use super::hurt::Hurt;
use super::program::expect_success;
use super::restore::move_fast;
use super::stage::{Stage, Told, unproven};

/// Exit codes of a refusal: refused before anything was changed, or bad content.
const REFUSALS: [i32; 2] = [4, 8];

/// A byte of an archived segment is changed by a bit.
pub async fn flipped_byte(stage: &mut Stage) -> Result<Told> {
    let victim = victim(stage, Which::Middle)?;
    let hurt = Hurt::flip(&victim.object)?;
    stage.record(hurt.command());
    let said = refused(stage, &victim.segment, hurt).await?;
    Ok(Told {
        what: format!(
            "one byte of WAL segment {} changed by a bit: refused, until it was mended",
            victim.segment.name()
        ),
        said,
    })
}

/// The object of an archived segment is gone.
pub async fn missing_segment(stage: &mut Stage) -> Result<Told> {
    let victim = victim(stage, Which::OneBefore)?;
    let aside = stage.scratch().path("aside");
    let hurt = Hurt::take(&victim.object, &aside)?;
    stage.record(hurt.command());
    let said = refused(stage, &victim.segment, hurt).await?;
    Ok(Told {
        what: format!(
            "WAL segment {} taken away: refused, until it was back",
            victim.segment.name()
        ),
        said,
    })
}

/// Restores from a hurt archive, which must be refused; then as far as the refusal says; then, mended, to the end.
async fn refused(stage: &mut Stage, segment: &WalSegment, hurt: Hurt) -> Result<Vec<String>> {
    let (into, moves) = (stage.scratch().path("refused"), move_fast(stage, "refused-fast"));
    let restore = |more: &[&str]| -> Vec<OsString> {
        let more: Vec<_> = more.iter().map(|word| word.as_ref()).collect();
        let arguments = restore_arguments(into.as_os_str(), &moves, &more);
        arguments.into_iter().map(OsString::from).collect()
    };
    let run = async |stage: &mut Stage, arguments: Vec<OsString>| {
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        stage.pgkeep(&arguments).await
    };
    let said = run(stage, restore(&["--latest"])).await?;
    if !said.code.is_some_and(|code| REFUSALS.contains(&code)) {
        let how = said
            .code
            .map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        return Err(unproven(format!("the restore was not refused, but ended with {how}")).detail(said.stderr));
    }
    untouched(&into)?;
    let reach = diagnosis(&said.stderr, segment)?;
    let reachable = run(stage, restore(&["--lsn", &reach.to_string(), "--dry-run"])).await?;
    expect_success(reachable, "the restore to where recovery was said to be possible")
        .map_err(|error| unproven(error.message()).detail(error.detail_text().unwrap_or_default()))?;
    stage.record(hurt.mending());
    hurt.mend()?;
    let again = run(stage, restore(&["--latest", "--dry-run"])).await?;
    expect_success(again, "the restore from the mended archive")?;
    Ok(said.stderr.lines().map(str::to_owned).collect())
}

/// The directory must not be there, or at least hold nothing.
fn untouched(into: &Path) -> Result<()> {
    match std::fs::read_dir(into).map(|mut entries| entries.next().is_none()) {
        Ok(false) => Err(unproven("a refused restore has written into its target").detail(into.display().to_string())),
        _ => Ok(()),
    }
}

/// How far recovery is said to be possible, by a refusal that names the segment.
fn diagnosis(said: &str, segment: &WalSegment) -> Result<Lsn> {
    let fault = |what: &str| Err(unproven(what).detail(said));
    if !said.contains(&segment.name()) {
        return fault("the refusal does not name the segment");
    }
    let words = said.split_once("--lsn ").map(|(_, after)| after);
    let word = words.and_then(|after| after.split(|c: char| !(c.is_ascii_hexdigit() || c == '/')).next());
    match word.and_then(|word| word.parse::<Lsn>().ok()) {
        Some(lsn) if lsn < segment.end() => Ok(lsn),
        Some(_) => fault("the refusal says that recovery is possible past the segment"),
        None => fault("the refusal does not say how far recovery is possible"),
    }
}

/// A segment in the archive, and the object that holds it.
struct Victim {
    segment: WalSegment,
    object: PathBuf,
}

/// Which segment is hurt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Middle,
    OneBefore,
}

/// A segment that recovery needs: after the last backup, with others before and behind it.
fn victim(stage: &Stage, which: Which) -> Result<Victim> {
    let mut found = Vec::new();
    collect(&stage.scratch().path("repository"), &mut found)?;
    found.retain(|victim| victim.segment.start() > stage.backup_end);
    found.sort_by_key(|victim| victim.segment.number);
    let middle = found.len() / 2;
    let number = if which == Which::Middle {
        middle
    } else {
        middle.saturating_sub(1)
    };
    let is_inside = number > 0 && number + 1 < found.len();
    found
        .into_iter()
        .nth(number)
        .filter(|_| is_inside)
        .ok_or_else(|| Error::internal("too few WAL segments were archived after the last backup"))
}

/// Objects of segments, wherever they are in the repository: their names begin with the segment's.
fn collect(dir: &Path, found: &mut Vec<Victim>) -> Result<()> {
    for entry in std::fs::read_dir(dir).during(|| format!("list {}", dir.display()))? {
        let path = entry.during(|| format!("list {}", dir.display()))?.path();
        if path.is_dir() {
            collect(&path, found)?;
            continue;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let digits = name
            .as_deref()
            .and_then(|name| name.split_once('-'))
            .map(|(digits, _)| digits);
        if let Some(segment) = digits.and_then(|digits| WalSegment::parse(digits, SegmentSize::DEFAULT)) {
            found.push(Victim { segment, object: path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> WalSegment {
        WalSegment::parse("000000010000000000000007", SegmentSize::DEFAULT).unwrap()
    }

    #[test]
    fn a_diagnosis_names_the_segment_and_how_far_recovery_is_possible() {
        let said = "error: no\ndetail: WAL segment 000000010000000000000007 is bad\n\
                    hint: Recovery is possible up to 2026-01-01T00:00:00Z (--lsn 0/6FFF010), and again from later.\n";
        assert_eq!(diagnosis(said, &segment()).unwrap(), "0/6FFF010".parse().unwrap());
        for lacking in [
            said.replace("0007", "0008"),
            said.replace("--lsn", ""),
            said.replace("0/6F", "1/6F"),
        ] {
            diagnosis(&lacking, &segment()).unwrap_err();
        }
    }
}
