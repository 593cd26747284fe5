//! `corpus unpack TARGET DIR` writes the kept inputs of a target as files, `corpus keep TARGET DIR` keeps the best of the
//! files of a directory instead, `corpus seeds DIR` keeps what a golden repository holds as first inputs. For `scripts/fuzz`.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use pgkeep_fuzz::{TARGETS, by_name, corpus, seeds};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["targets"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["unpack", target, directory] => unpack(target, Path::new(directory)),
        ["keep", target, directory] => keep(target, Path::new(directory)),
        ["seeds", directory] => seed(Path::new(directory)),
        _ => Err(io::Error::other(
            "usage: corpus targets | unpack TARGET DIR | keep TARGET DIR | seeds GOLDEN",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(target: &str, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for input in corpus::read(&corpus::directory(), target)? {
        fs::write(directory.join(blake3::hash(&input).to_hex().as_str()), input)?;
    }
    Ok(())
}

fn keep(target: &str, directory: &Path) -> io::Result<()> {
    let known = by_name(target).ok_or_else(|| io::Error::other(format!("there is no target {target}")))?;
    let files = fs::read_dir(directory)?.map(|file| fs::read(file?.path()));
    let mut inputs = files.collect::<io::Result<Vec<_>>>()?;
    // A fuzzer throws away what takes no new way through the parser; what PostgreSQL or pgkeep wrote is still worth keeping.
    let before = corpus::read(&corpus::directory(), target).unwrap_or_default();
    inputs.extend(before.into_iter().filter(|input| (known.run)(input)));
    inputs.sort();
    inputs.dedup();
    corpus::write(&corpus::directory(), target, corpus::choose(inputs, known.run))
}

/// Adds to what is kept.
fn seed(golden: &Path) -> io::Result<()> {
    for (target, more) in seeds::of_golden(golden)? {
        let mut inputs = corpus::read(&corpus::directory(), target).unwrap_or_default();
        inputs.extend(more);
        corpus::write(&corpus::directory(), target, inputs)?;
    }
    Ok(())
}
