//! Flows of the future: printed as they come, those of several servers after a short wait that brings them in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use specola_proto::google::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::answer::{Answer, Sink};
use super::interrupt::Interrupt;
use super::stream::{Event, NodeStream};

/// Answers that wait to be printed; a slow terminal makes the servers wait.
const AHEAD: usize = 1024;
/// How long an answer waits for older ones of other servers.
const WINDOW: Duration = Duration::from_millis(250);
/// Answers that wait for older ones at most.
const HELD: usize = 8192;
/// How often it is checked whether anyone still reads the output.
const READER_CHECK: Duration = Duration::from_secs(1);

/// Prints flows until the user or every server wants to stop.
///
/// # Errors
/// No server can be reached, one refuses the request, or the output cannot be written.
pub(crate) async fn run(
    streams: Vec<NodeStream>,
    mut sink: impl Sink,
    mut interrupt: Interrupt,
) -> anyhow::Result<ExitCode> {
    let (sender, mut events) = mpsc::channel(AHEAD);
    let mut order = Reorder::new(if streams.len() > 1 { WINDOW } else { Duration::ZERO });
    let mut tasks = start(streams, sender, &mut sink).await?;
    let mut reader_check = tokio::time::interval(READER_CHECK);
    loop {
        tokio::select! {
            biased;
            () = interrupt.signaled() => break,
            Some(ended) = tasks.join_next() => ended??,
            event = events.recv() => match event {
                Some(Event::Answer(answer)) => order.push(*answer, Instant::now()),
                Some(Event::Note(note)) => sink.note(&note)?,
                // Every server's task is about to end; why matters more than that.
                None => match tasks.join_next().await {
                    Some(ended) => ended??,
                    None => break,
                },
            },
            () = tokio::time::sleep(order.wait(Instant::now())), if !order.is_empty() => {}
            _ = reader_check.tick() => if reader_is_gone() { return Ok(ExitCode::SUCCESS) },
        }
        while let Some(answer) = order.pop(Instant::now()) {
            sink.take(&answer)?;
        }
        if events.is_empty() {
            sink.flush()?;
        }
    }
    order.window = Duration::ZERO;
    while let Some(answer) = order.pop(Instant::now()) {
        sink.take(&answer)?;
    }
    sink.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Connects to all servers; those that cannot be reached are tried again, unless none can.
async fn start(
    streams: Vec<NodeStream>,
    sender: mpsc::Sender<Event>,
    sink: &mut impl Sink,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    let mut absent = Vec::new();
    for connected in futures::future::join_all(streams.into_iter().map(NodeStream::connect)).await {
        match connected {
            Err(failed) => absent.push(failed),
            Ok(mut connected) => {
                let sender = sender.clone();
                tasks.spawn(async move { connected.follow(&sender).await });
            }
        }
    }
    if tasks.is_empty() {
        let first = absent.into_iter().next();
        return Err(first.map_or_else(|| anyhow::anyhow!("there is no server to ask"), |(_, error)| error));
    }
    for (stream, error) in absent {
        sink.note(&format!("{error:#}; trying again"))?;
        tasks.spawn(stream.connect_and_follow(sender.clone()));
    }
    Ok(tasks)
}

/// Whether standard output is a pipe that nobody reads any more.
fn reader_is_gone() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    polled.is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// Answers held back until they are old enough to be in order.
struct Reorder {
    window: Duration,
    held: BinaryHeap<Reverse<Held>>,
    pushed: u64,
}

/// Ordered by time, then arrival.
struct Held {
    time: Option<Timestamp>,
    number: u64,
    arrived: Instant,
    answer: Answer,
}

impl Reorder {
    const fn new(window: Duration) -> Self {
        Self { window, held: BinaryHeap::new(), pushed: 0 }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn push(&mut self, answer: Answer, now: Instant) {
        self.pushed += 1;
        // Without a window, arrival is the order.
        let time = if self.window.is_zero() { None } else { answer.time() };
        self.held.push(Reverse(Held { time, number: self.pushed, arrived: now, answer }));
    }

    /// How long until the next answer may go.
    fn wait(&self, now: Instant) -> Duration {
        let next = self.held.peek();
        next.map_or(self.window, |Reverse(held)| (held.arrived + self.window).saturating_duration_since(now))
    }

    /// The oldest answer, once it waited long enough.
    fn pop(&mut self, now: Instant) -> Option<Answer> {
        let Reverse(next) = self.held.peek()?;
        let ready = self.held.len() > HELD || now.saturating_duration_since(next.arrived) >= self.window;
        if ready { self.held.pop().map(|Reverse(held)| held.answer) } else { None }
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.time, self.number) == (other.time, other.number)
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}
