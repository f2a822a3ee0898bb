//! Whether this machine can run an agent, and what to do where it cannot. Changes nothing and needs no agent.

use std::path::PathBuf;

use serde::Serialize;

use crate::host::Devices;

mod host;
mod kernel;

/// What to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PreflightOptions {
    /// Directory for pinned maps that the agent will get.
    pub pin_dir: PathBuf,
    /// Devices that the agent will get; those of the default routes when there are none.
    pub devices: Vec<String>,
    /// Devices of a machine without pods: what only pods need is not looked at then.
    pub host_devices: Option<Devices>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// An agent runs, but something may go wrong.
    Warn,
    /// An agent cannot run.
    Fail,
}

impl Outcome {
    /// `ok`, `warn` or `fail`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it, unless it is ok.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name: name.into(), outcome: Outcome::Warn, found: found.into(), remedy }
    }

    fn fail(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, ..Self::warn(name, found, remedy) }
    }
}

/// Makes all checks, in this thread's network namespace. Takes a second or two: the kernel verifies all programs.
pub fn preflight(options: &PreflightOptions) -> Vec<Check> {
    let mut checks = kernel::checks();
    checks.extend(host::checks(options));
    checks
}
