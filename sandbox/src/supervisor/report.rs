//! What the supervisor tells `up` while it starts: one JSON line each on standard output.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    Progress(String),
    Ready,
    Failed(String),
}

/// The writing end; silent once the outcome was told, since nobody reads any more.
#[derive(Debug, Default)]
pub(super) struct Starter {
    told: AtomicBool,
}

impl Starter {
    pub(super) fn progress(&self, text: &str) {
        eprintln!("{} {text}", jiff::Timestamp::now());
        self.write(&Report::Progress(text.to_owned()));
    }

    pub(super) fn ready(&self) {
        self.write(&Report::Ready);
        self.told.store(true, Ordering::Relaxed);
    }

    /// False when nobody reads any more.
    pub(super) fn failed(&self, error: &anyhow::Error) -> bool {
        self.write(&Report::Failed(format!("{error:#}")));
        !self.told.swap(true, Ordering::Relaxed)
    }

    fn write(&self, report: &Report) {
        if self.told.load(Ordering::Relaxed) {
            return;
        }
        let line = serde_json::to_string(report).expect("a report is text");
        // `up` may be gone; that is noticed on standard input.
        _ = writeln!(std::io::stdout(), "{line}");
    }
}
