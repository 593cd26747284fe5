//! Shows what an operation tells: a bar on a terminal, a line every 30 seconds elsewhere, events with `--json`.
//!
//! Invariant: telling never blocks the operation for long and never fails it. The clock here is for the display only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgkeep_base::{ByteSize, Event, Progress};

use super::Output;
use crate::times;

const LINE_EVERY: Duration = Duration::from_secs(30);
const EVENT_EVERY: Duration = Duration::from_secs(1);
const BAR: &str = "{spinner} {msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const BAR_WITHOUT_TOTAL: &str = "{spinner} {msg} {bytes}, {bytes_per_sec}, {elapsed}";
const BAR_WITHOUT_BYTES: &str = "{spinner} {msg} {elapsed}";

/// Shows progress through an [`Output`].
#[derive(Debug)]
pub struct Display {
    output: Arc<Output>,
    phase: Arc<Mutex<Option<Phase>>>,
}

#[derive(Debug)]
struct Phase {
    name: String,
    total: Option<u64>,
    done: u64,
    began: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Phase {
    /// `copy data files: 1.2 GiB of 3.2 GiB (38 %), 410.0 MiB/s, 5 s left`.
    fn line(&self, elapsed: Duration) -> String {
        let mut line = self.name.clone();
        if self.done > 0 || self.total.is_some() {
            line.push_str(&format!(": {}", ByteSize(self.done)));
        }
        if let Some(total) = self.total.filter(|total| *total > 0) {
            let percent = (self.done.min(total) as f64 / total as f64 * 100.0).floor();
            line.push_str(&format!(" of {} ({percent} %)", ByteSize(total)));
        }
        let rate = self.done as f64 / elapsed.as_secs_f64().max(0.001);
        if self.done > 0 {
            line.push_str(&format!(", {}/s", ByteSize(rate as u64)));
        }
        if let Some(rest) = self
            .total
            .and_then(|total| total.checked_sub(self.done))
            .filter(|_| rate >= 1.0)
        {
            line.push_str(&format!(
                ", {} left",
                times::elapsed((rest as f64 / rate).ceil() as u64)
            ));
        }
        line
    }
}

impl Display {
    /// A display that shows nothing with `-q`.
    pub fn new(output: Arc<Output>) -> Display {
        Display {
            output,
            phase: Arc::default(),
        }
    }

    /// Takes the bar away, so that what is printed next stands alone.
    pub fn finish(&self) {
        if let Some(bar) = lock(&self.phase).take().and_then(|phase| phase.bar) {
            bar.finish_and_clear();
        }
    }

    fn begin(&self, name: String, total: Option<u64>) {
        let now = Instant::now();
        let mut slot = lock(&self.phase);
        let first = slot.is_none();
        if let Some(bar) = slot.take().and_then(|phase| phase.bar) {
            bar.finish_and_clear();
        }
        let show_bar = self.output.stderr_terminal && !self.output.json && !self.output.quiet;
        let bar = show_bar.then(|| bar(&name, total));
        if !self.output.json && !self.output.quiet && !show_bar {
            self.output.stderr(&format!("{name}\n"));
        }
        *slot = Some(Phase {
            name,
            total,
            done: 0,
            began: now,
            told: now,
            bar,
        });
        drop(slot);
        if first && !show_bar && !self.output.json && !self.output.quiet {
            tell_now_and_then(Arc::downgrade(&self.phase), Arc::downgrade(&self.output));
        }
    }

    /// Whether this many bytes are to be told as an event.
    fn advance(&self, done: u64) -> bool {
        let mut slot = lock(&self.phase);
        let Some(phase) = slot.as_mut() else { return false };
        if let Some(bar) = &phase.bar {
            if phase.done == 0 && phase.total.is_none() {
                bar.set_style(style(BAR_WITHOUT_TOTAL));
            }
            bar.set_position(done);
        }
        phase.done = done;
        let due = phase.told.elapsed() >= EVENT_EVERY;
        if self.output.json && due {
            phase.told = Instant::now();
        }
        self.output.json && due
    }

    /// Runs `tell` with the bar out of the way.
    fn beside_bar(&self, tell: impl FnOnce()) {
        let bar = lock(&self.phase).as_ref().and_then(|phase| phase.bar.clone());
        match bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }
}

impl Progress for Display {
    fn event(&self, event: Event) {
        match &event {
            Event::Phase { name, bytes_total } => {
                if self.output.json && !self.output.quiet {
                    self.output.event(&event);
                }
                self.begin(name.clone(), *bytes_total);
            }
            Event::Bytes { done } => {
                if self.advance(*done) && !self.output.quiet {
                    self.output.event(&event);
                }
            }
            Event::Note { message } => self.beside_bar(|| self.output.note(message)),
            Event::Warning { message } => self.beside_bar(|| self.output.impair(message)),
        }
    }
}

fn lock(phase: &Mutex<Option<Phase>>) -> MutexGuard<'_, Option<Phase>> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let template = if total.is_some_and(|total| total > 0) {
        BAR
    } else {
        BAR_WITHOUT_BYTES
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(style(template));
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are ours")
}

/// Writes a line every 30 seconds, also while nothing happens, until the display is gone.
fn tell_now_and_then(phase: Weak<Mutex<Option<Phase>>>, output: Weak<Output>) {
    let tell = move || {
        loop {
            std::thread::sleep(LINE_EVERY);
            let (Some(phase), Some(output)) = (phase.upgrade(), output.upgrade()) else {
                return;
            };
            let line = lock(&phase).as_ref().map(|phase| phase.line(phase.began.elapsed()));
            let Some(line) = line else { return };
            output.stderr(&format!("{line}\n"));
        }
    };
    // Without the thread there are no lines, which is no reason to fail.
    let _ = std::thread::Builder::new().name("progress".into()).spawn(tell);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_bytes_rate_and_time_left() {
        let now = Instant::now();
        let phase = |done, total| Phase {
            name: "copy data files".into(),
            total,
            done,
            began: now,
            told: now,
            bar: None,
        };
        let ten = Duration::from_secs(10);
        assert_eq!(
            phase(1 << 30, Some(4 << 30)).line(ten),
            "copy data files: 1.0 GiB of 4.0 GiB (25 %), 102.4 MiB/s, 30 s left"
        );
        assert_eq!(phase(0, None).line(ten), "copy data files");
        assert_eq!(phase(1 << 20, None).line(ten), "copy data files: 1.0 MiB, 102.4 KiB/s");
        assert_eq!(phase(0, Some(1024)).line(ten), "copy data files: 0 B of 1.0 KiB (0 %)");
    }
}
