//! Flows of the past: the streams end, and are merged by time on the way.

use std::collections::VecDeque;
use std::process::ExitCode;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answer::{Answer, Sink};
use super::interrupt::{INTERRUPTED, Interrupt};
use super::plan::Limit;
use super::stream::{Event, NodeStream};

/// Answers of one server that wait to be merged.
const AHEAD: usize = 64;

/// Reads all streams to their end and prints them as one.
///
/// # Errors
/// No server can be reached, one refuses the request or breaks off, or the output cannot be written.
pub(crate) async fn run(
    streams: Vec<NodeStream>,
    limit: Limit,
    mut sink: impl Sink,
    mut interrupt: Interrupt,
) -> anyhow::Result<ExitCode> {
    let (mut merge, failed) = Merge::start(streams).await;
    if merge.sources.is_empty() {
        let error = failed.into_iter().next();
        return Err(error.unwrap_or_else(|| anyhow::anyhow!("there is no server to ask")));
    }
    for error in &failed {
        sink.note(&format!("{error:#}"))?;
    }
    let mut shown = Shown::new(limit);
    loop {
        tokio::select! {
            biased;
            () = interrupt.signaled() => {
                shown.print_rest(&mut sink)?;
                return Ok(ExitCode::from(INTERRUPTED));
            }
            next = merge.next() => match next {
                Some(answer) => shown.take(answer, &mut sink)?,
                None => break,
            },
        }
        if shown.is_complete() {
            break;
        }
    }
    shown.print_rest(&mut sink)?;
    let mut errors = merge.finish().await.into_iter();
    if let Some(error) = errors.next() {
        for further in errors {
            sink.note(&format!("{further:#}"))?;
        }
        return Err(error);
    }
    if failed.is_empty() { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}

/// Chooses what is shown.
pub(super) struct Shown {
    limit: Limit,
    /// Flows that were taken, or for the newest ones those that are kept.
    flows: u64,
    kept: VecDeque<Answer>,
}

impl Shown {
    pub(super) const fn new(limit: Limit) -> Self {
        Self { limit, flows: 0, kept: VecDeque::new() }
    }

    /// Shows the answer, or keeps it for the end.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(super) fn take(&mut self, answer: Answer, sink: &mut impl Sink) -> anyhow::Result<()> {
        self.flows += u64::from(answer.is_counted());
        let Limit::Last(last) = self.limit else { return Ok(sink.take(&answer)?) };
        self.kept.push_back(answer);
        while self.flows > last {
            let dropped = self.kept.pop_front();
            self.flows -= u64::from(dropped.is_some_and(|answer| answer.is_counted()));
        }
        Ok(())
    }

    /// Whether more answers would not be shown.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.limit, Limit::First(first) if self.flows >= first)
    }

    /// Shows what was kept.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(super) fn print_rest(&mut self, sink: &mut impl Sink) -> anyhow::Result<()> {
        for answer in self.kept.drain(..) {
            sink.take(&answer)?;
        }
        Ok(sink.finish()?)
    }
}

/// Several streams as one, ordered by time as far as each of them is.
struct Merge {
    sources: Vec<Source>,
}

struct Source {
    head: Option<Answer>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<anyhow::Result<()>>,
    ended: bool,
}

impl Merge {
    /// Connects to all servers; those that cannot be reached are returned as errors.
    async fn start(streams: Vec<NodeStream>) -> (Self, Vec<anyhow::Error>) {
        let mut sources = Vec::new();
        let mut failed = Vec::new();
        for connected in futures::future::join_all(streams.into_iter().map(NodeStream::connect)).await {
            match connected {
                Err((_stream, error)) => failed.push(error),
                Ok(mut connected) => {
                    let (sender, events) = mpsc::channel(AHEAD);
                    let task = tokio::spawn(async move { connected.read(&sender).await });
                    sources.push(Source { head: None, events, task, ended: false });
                }
            }
        }
        (Self { sources }, failed)
    }

    /// The oldest answer of all; one without a time goes first. Cancel-safe.
    async fn next(&mut self) -> Option<Answer> {
        for source in &mut self.sources {
            while source.head.is_none() && !source.ended {
                match source.events.recv().await {
                    Some(Event::Answer(answer)) => source.head = Some(*answer),
                    Some(Event::Note(_)) => {}
                    None => source.ended = true,
                }
            }
        }
        let heads = self.sources.iter().enumerate();
        let times = heads.filter_map(|(at, source)| source.head.as_ref().map(|head| (head.time(), at)));
        let (_, oldest) = times.min()?;
        self.sources[oldest].head.take()
    }

    /// The errors that ended streams.
    async fn finish(self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for source in self.sources {
            drop(source.events);
            match source.task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error),
                Err(panicked) => errors.push(panicked.into()),
            }
        }
        errors
    }
}
