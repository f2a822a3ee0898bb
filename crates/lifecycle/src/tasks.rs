//! The set of long tasks of a program.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::{Drain, DrainTrigger, Readiness, drain};

/// Why a task ended badly.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task returned an error.
    #[error("task {name} failed: {message}")]
    Failed {
        /// Name given at spawn.
        name: &'static str,
        /// The error with its causes.
        message: String,
    },
    /// The task panicked.
    #[error("task {name} panicked: {source}")]
    Panicked {
        /// Name given at spawn.
        name: &'static str,
        /// What tokio says of it.
        source: JoinError,
    },
    /// The task returned although nobody asked the program to stop.
    #[error("task {name} ended before shutdown")]
    EndedEarly {
        /// Name given at spawn.
        name: &'static str,
    },
}

/// How a shutdown went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What made the program stop, if it was a task.
    pub cause: Option<TaskError>,
    /// Errors of tasks during the drain.
    pub errors: Vec<TaskError>,
    /// Tasks that were aborted because they missed the deadline.
    pub aborted: Vec<&'static str>,
}

impl Outcome {
    /// Whether every task ended by itself and without error.
    pub fn is_clean(&self) -> bool {
        self.cause.is_none() && self.errors.is_empty() && self.aborted.is_empty()
    }
}

/// Owns the tasks of a program, its drain and its readiness.
#[derive(Debug)]
pub struct Lifecycle {
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    trigger: DrainTrigger,
    drain: Drain,
    readiness: Readiness,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// An empty program.
    pub fn new() -> Self {
        let (trigger, drain) = drain();
        Self { tasks: JoinSet::new(), names: HashMap::new(), trigger, drain, readiness: Readiness::new() }
    }

    /// A drain to hand to a task.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// The program's readiness.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Starts a task. It must end soon after its [`Drain`] is signalled; ending before that stops the program.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let handle = self.tasks.spawn(async move { task.await.map_err(|error| format!("{error:#}")) });
        self.names.insert(handle.id(), name);
    }

    /// Runs until `stop` resolves or a task ends, then drains within `deadline` and aborts what is left.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>, deadline: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        tokio::select! {
            () = stop => {}
            Some(ended) = self.tasks.join_next_with_id() => outcome.cause = Some(self.early_end(ended)),
        }
        self.readiness.close("draining");
        self.trigger.signal();
        let drained = tokio::time::timeout(deadline, self.join_all(&mut outcome.errors)).await;
        if drained.is_err() {
            outcome.aborted = self.names.values().copied().collect();
            outcome.aborted.sort_unstable();
            self.tasks.shutdown().await;
        }
        outcome
    }

    async fn join_all(&mut self, errors: &mut Vec<TaskError>) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            if let Err(error) = self.result_of(ended) {
                errors.push(error);
            }
        }
    }

    fn early_end(&mut self, ended: Result<(Id, Result<(), String>), JoinError>) -> TaskError {
        match self.result_of(ended) {
            Ok(name) => TaskError::EndedEarly { name },
            Err(error) => error,
        }
    }

    fn result_of(
        &mut self,
        ended: Result<(Id, Result<(), String>), JoinError>,
    ) -> Result<&'static str, TaskError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        match ended {
            Ok((_, Ok(()))) => Ok(name),
            Ok((_, Err(message))) => Err(TaskError::Failed { name, message }),
            Err(source) => Err(TaskError::Panicked { name, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_clean_stop_waits_for_every_task() {
        let mut life = Lifecycle::new();
        let drain = life.drain();
        let readiness = life.readiness();
        life.spawn("worker", async move {
            drain.signalled().await;
            Ok::<_, String>(())
        });
        let outcome = life.run_until(async {}, DEADLINE).await;
        assert!(outcome.is_clean(), "{outcome:?}");
        assert_eq!(readiness.pending(), ["draining"]);
    }

    #[tokio::test]
    async fn a_task_that_fails_stops_the_program_and_is_named() {
        let mut life = Lifecycle::new();
        life.spawn("broken", async { Err("no socket") });
        let outcome = life.run_until(pending(), DEADLINE).await;
        assert_eq!(outcome.cause.expect("a cause").to_string(), "task broken failed: no socket");
    }

    #[tokio::test]
    async fn a_task_that_returns_early_stops_the_program() {
        let mut life = Lifecycle::new();
        life.spawn("short", async { Ok::<_, String>(()) });
        let outcome = life.run_until(pending(), DEADLINE).await;
        assert!(matches!(outcome.cause, Some(TaskError::EndedEarly { name: "short" })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_is_aborted_and_named() {
        let mut life = Lifecycle::new();
        life.spawn("stuck", pending::<Result<(), String>>());
        let outcome = life.run_until(async {}, DEADLINE).await;
        assert_eq!(outcome.aborted, ["stuck"]);
    }
}
