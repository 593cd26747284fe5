//! What the demo tells: a line for each step as it ends, and at the end the whole as one document.

use std::sync::Arc;
use std::time::Duration;

use pgkeep_base::{Event, Progress, Result};
use serde::Serialize;
use serde_json::json;

use super::stage::{Look, Stage, Told};
use crate::render::progress::Display;
use crate::render::{Output, Page, View};

/// A step that was played.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Its name, for other people's scripts.
    pub name: &'static str,
    /// Whether it did and proved what it is for.
    pub ok: bool,
    /// How long it took.
    pub seconds: f64,
    /// What repeats it: lines for a shell.
    pub command: String,
    what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    said: Vec<String>,
}

impl Step {
    /// A step that ended.
    pub fn new(name: &'static str, ok: bool, took: Duration, commands: Vec<String>, told: Told) -> Step {
        Step {
            name,
            ok,
            seconds: seconds(took),
            command: commands.join("\n"),
            what: told.what,
            said: told.said,
        }
    }

    fn text(&self, is_terminal: bool) -> String {
        let (good, bad, bar) = if is_terminal {
            ("✓", "✗", "│")
        } else {
            ("ok", "FAILED", "|")
        };
        let sign = if self.ok { good } else { bad };
        let mut text = format!("{sign} {:<22} {:>5.1} s  {}\n", self.name, self.seconds, self.what);
        for command in self.command.lines() {
            text.push_str(&format!("    $ {command}\n"));
        }
        for line in &self.said {
            text.push_str(&format!("    {bar} {line}\n"));
        }
        text
    }
}

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every step went well.
    pub ok: bool,
    /// The steps.
    pub steps: Vec<Step>,
    postgres: String,
    bin_dir: String,
    /// With `--keep` it is still there.
    directory: String,
    #[serde(skip)]
    is_copy: bool,
    user: Option<String>,
    /// With `--keep`: what there is to look at, and the command for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<Look>>,
}

impl Report {
    /// The report of a run that begins.
    pub fn new(stage: &Stage) -> Report {
        let account = stage.scratch().account();
        let is_us = account.uid() == rustix::process::geteuid().as_raw();
        Report {
            ok: false,
            steps: Vec::new(),
            postgres: stage.binaries().version().to_owned(),
            bin_dir: stage.binaries().bin_dir().display().to_string(),
            directory: stage.scratch().root().display().to_string(),
            is_copy: stage.is_copy,
            user: account.name().filter(|_| !is_us).map(str::to_owned),
            kept: None,
        }
    }

    /// Prints the end: for people the steps were told already.
    pub fn print(&self, output: &Output) -> Result<()> {
        output.print(self)
    }
}

impl View for Report {
    fn text(&self, page: &mut Page) {
        let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
        page.line("");
        match self.ok {
            true => page.line(format!("All {} steps went well, in {seconds:.1} s.", self.steps.len())),
            false => page.line(format!("Something failed, after {seconds:.1} s.")),
        }
        let Some(kept) = &self.kept else { return };
        page.line("Everything is still there, and what was started still runs:");
        for Look { what, command } in kept {
            page.line(format!("  {what:<17} {command}"));
        }
    }
}

/// Tells while the demo is played.
pub struct Teller {
    output: Arc<Output>,
    display: Display,
}

impl Teller {
    /// Tells through an output.
    pub fn new(output: Arc<Output>) -> Teller {
        Teller {
            display: Display::new(Arc::clone(&output)),
            output,
        }
    }

    /// Tells where it is played.
    pub fn open(&self, report: &Report) {
        if self.output.json {
            return;
        }
        let Report {
            postgres,
            bin_dir,
            directory,
            ..
        } = report;
        let mut text = format!("PostgreSQL {postgres} from {bin_dir}, in {directory}");
        if let Some(user) = &report.user {
            text.push_str(&format!(", as user {user}"));
            if report.is_copy {
                text.push_str(" with a copy of pgkeep that this user can run");
            }
        }
        self.print(&(text + "\n"));
    }

    /// Tells that a step begins, where that can be taken back.
    pub fn begin(&self, name: &str) {
        if self.output.stderr_terminal && !self.output.json && !self.output.quiet {
            self.display.event(Event::Phase {
                name: name.to_owned(),
                bytes_total: Some(0),
            });
        }
    }

    /// Tells how a step ended.
    pub fn end(&self, step: &Step) {
        self.display.finish();
        match self.output.json {
            true => self.output.event(&json!({ "event": "step", "step": step })),
            false => self.print(&step.text(self.output.stdout_terminal)),
        }
    }

    fn print(&self, text: &str) {
        // Where nobody reads, the steps still count.
        let _ = self.output.print_bare(text);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // A step that was cut off must not leave its bar where the last words will be.
        self.display.finish();
    }
}

/// To a thousandth: more would only be noise.
fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_with_its_commands_and_the_words_of_a_refusal() {
        let told = Told {
            what: "refused, as it must be".into(),
            said: vec!["error: no".into()],
        };
        let step = Step::new(
            "flipped-byte",
            true,
            Duration::from_micros(1_234_567),
            vec!["a".into(), "b".into()],
            told,
        );
        assert_eq!(
            step.text(false),
            "ok flipped-byte             1.2 s  refused, as it must be\n    $ a\n    $ b\n    | error: no\n"
        );
        assert!(step.text(true).starts_with("✓ "));
        let value = serde_json::to_value(&step).unwrap();
        assert_eq!((&value["seconds"], &value["command"]), (&json!(1.235), &json!("a\nb")));
    }
}
