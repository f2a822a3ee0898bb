//! Errors that decide the exit code.

use std::fmt;
use std::io;

/// Wrong arguments; the program exits with 2.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl UsageError {
    /// An error of one flag.
    pub(crate) fn new(flag: &str, cause: impl fmt::Display) -> Self {
        Self(format!("{flag}: {cause}"))
    }

    /// An error that says everything itself.
    pub(crate) fn from_error(error: impl std::error::Error) -> Self {
        Self(error.to_string())
    }

    /// An error with this text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The error with its causes, harmless for a terminal.
pub(crate) fn text(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().map(crate::printer::escape).collect::<Vec<_>>().join("\n")
}

/// Whether the cause is a reader of our output that went away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The text of a refused or failed call, without the layers around it.
pub(crate) fn status_text(status: &tonic::Status) -> String {
    if status.code() == tonic::Code::Unknown && !status.message().is_empty() {
        return status.message().to_owned();
    }
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
