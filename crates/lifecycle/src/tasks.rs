//! The set of long tasks of a program.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
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
        let cause = self.run(stop).await;
        self.drain_all(cause, deadline).await
    }

    /// Runs until `stop` resolves or a task ends, which it gives.
    async fn run(&mut self, stop: impl Future<Output = ()>) -> Option<TaskError> {
        tokio::select! {
            () = stop => None,
            Some(ended) = self.tasks.join_next_with_id() => Some(self.early_end(ended)),
        }
    }

    async fn drain_all(mut self, cause: Option<TaskError>, deadline: Duration) -> Outcome {
        let mut outcome = Outcome { cause, ..Outcome::default() };
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

    /// As [`Lifecycle::run_until`], for sources and the sinks that take what they make: when `stop` resolves or a task
    /// of either ends, the sources drain, then `between` passes on what is under way, then the sinks drain. Each set has
    /// `deadline` for it.
    pub async fn run_before(
        self,
        sinks: Self,
        stop: impl Future<Output = ()>,
        between: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Outcome {
        let (sinks_ended, sinks_end) = oneshot::channel::<()>();
        let (sources_ended, sources_end) = oneshot::channel::<()>();
        let sources = async {
            let stop = async {
                // A sender that is dropped is an end as well.
                tokio::select! { () = stop => {}, _ = sinks_end => {} }
            };
            let outcome = self.run_until(stop, deadline).await;
            between.await;
            drop(sources_ended);
            outcome
        };
        let sinks = async {
            let mut sinks = sinks;
            let mut sources_end = sources_end;
            let cause = sinks.run(async { drop((&mut sources_end).await) }).await;
            drop(sinks_ended);
            if cause.is_some() {
                drop(sources_end.await);
            }
            sinks.drain_all(cause, deadline).await
        };
        let (mut outcome, of_sinks) = tokio::join!(sources, sinks);
        outcome.cause = outcome.cause.or(of_sinks.cause);
        outcome.errors.extend(of_sinks.errors);
        outcome.aborted.extend(of_sinks.aborted);
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
    use std::sync::{Arc, Mutex};

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

    /// A set with a task that says when it drains.
    fn telling(name: &'static str, said: &Arc<Mutex<Vec<&'static str>>>) -> Lifecycle {
        let mut life = Lifecycle::new();
        let (drain, said) = (life.drain(), Arc::clone(said));
        life.spawn(name, async move {
            drain.signalled().await;
            said.lock().expect("no panic").push(name);
            Ok::<_, String>(())
        });
        life
    }

    #[tokio::test]
    async fn sources_drain_before_sinks_whoever_ends_first() {
        for broken in [None, Some("source"), Some("sink")] {
            let said = Arc::default();
            let (mut sources, mut sinks) = (telling("source", &said), telling("sink", &said));
            let breaks = async { Err::<(), _>("broken") };
            match broken {
                Some("source") => sources.spawn("broken", breaks),
                Some(_) => sinks.spawn("broken", breaks),
                None => {}
            }
            let stop = async {
                if broken.is_some() {
                    pending::<()>().await;
                }
            };
            let between = async { said.lock().expect("no panic").push("between") };
            let outcome = sources.run_before(sinks, stop, between, DEADLINE).await;
            assert_eq!(*said.lock().expect("no panic"), ["source", "between", "sink"], "{broken:?}");
            assert_eq!(outcome.cause.is_some(), broken.is_some(), "{outcome:?}");
            assert!(outcome.errors.is_empty() && outcome.aborted.is_empty(), "{outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_is_aborted_and_named() {
        let mut life = Lifecycle::new();
        life.spawn("stuck", pending::<Result<(), String>>());
        let outcome = life.run_until(async {}, DEADLINE).await;
        assert_eq!(outcome.aborted, ["stuck"]);
    }
}
