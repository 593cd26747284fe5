//! Named steps at which a test may kill or fail the program: `<room>.<what>.<step>`.
//!
//! Invariant: a build without debug assertions holds nothing of this, neither the question nor a single name. Nothing
//! here does I/O: what happens at a point is up to whoever armed it, which only the binary does (docs/adr/0008).
//! A point stands before the step that it names, so that the points around a step show the world without and with it.

use std::io;

/// Decides what happens at a point: nothing, a failure of the step, or the end of the process.
pub type Hook = Box<dyn Fn(&'static str) -> io::Result<()> + Send + Sync>;

#[cfg(debug_assertions)]
static HOOK: std::sync::OnceLock<Hook> = std::sync::OnceLock::new();

/// Arms all points of this process, for good; only the first call counts.
#[cfg(debug_assertions)]
pub fn arm(hook: Hook) {
    // Who comes second has lost: a hook that changes midway would make counts of points meaningless.
    let _ = HOOK.set(hook);
}

/// A step is about to be taken.
///
/// # Errors
/// What an armed hook says, as the operating system would have said it of the step.
#[inline(always)]
pub fn at(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    if let Some(hook) = HOOK.get() {
        return hook(name);
    }
    // Not used any more: the optimizer drops the name.
    let _ = name;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    const PROGRAM: &str = r#"
        fn main() {
            #[cfg(debug_assertions)]
            failpoint::arm(Box::new(|name| Ok(println!("{name}"))));
            if failpoint::at("room.what.step").is_err() {
                std::process::exit(1);
            }
        }
    "#;

    fn holds_the_name(directory: &Path, options: &[&str]) -> bool {
        let source = directory.join("main.rs");
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/failpoint.rs");
        std::fs::write(&source, format!("#[path = {module:?}]\nmod failpoint;\n{PROGRAM}")).unwrap();
        let program = directory.join("program");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut compile = Command::new(rustc);
        compile.args(["--edition", "2024", "-Awarnings"]).args(options);
        let compiled = compile.arg("-o").arg(&program).arg(&source).output().unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let bytes = std::fs::read(&program).unwrap();
        bytes.windows(14).any(|window| window == b"room.what.step")
    }

    /// Aim: nothing of a failpoint gets into a release build.
    /// Method: this very file is compiled with a caller, as `cargo build --release` does it and as tests have it.
    #[test]
    fn a_release_build_holds_no_failpoint() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!holds_the_name(directory.path(), &["-O"]));
        assert!(holds_the_name(directory.path(), &["-O", "-C", "debug-assertions=on"]));
    }
}
