//! Progress: a bar on a terminal, plain lines everywhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

/// Plain lines are written after each such share of the whole.
const PLAIN_STEPS: u64 = 10;

/// Shows how much of a known amount of work is done.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    label: &'static str,
    total: u64,
    done: AtomicU64,
}

impl Progress {
    /// Begins with nothing done of `total`.
    pub fn new(label: &'static str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target =
            if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{prefix} [{bar:40}] {percent}% {pos}/{len} {msg} ({elapsed}, {eta} left)";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label);
        Self { bar, plain, label, total, done: AtomicU64::new(0) }
    }

    /// So much more is done.
    pub fn add(&self, amount: u64) {
        let before = self.done.fetch_add(amount, Ordering::Relaxed);
        self.bar.inc(amount);
        let step = |done: u64| done * PLAIN_STEPS / self.total.max(1);
        if self.plain && step(before) != step(before + amount) {
            let percent = (before + amount) * 100 / self.total.max(1);
            eprintln!("{}: {percent}% ({} of {})", self.label, before + amount, self.total);
        }
    }

    /// What to say behind the bar; with plain lines a line of its own.
    pub fn say(&self, message: String) {
        if self.plain {
            eprintln!("{}: {message}", self.label);
        } else {
            self.bar.set_message(message);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
