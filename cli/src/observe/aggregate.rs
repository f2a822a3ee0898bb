//! `specola observe --aggregate`: the busiest pairs of peers, live.

use std::env;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use parking_lot::{Mutex, MutexGuard};
use specola_proto::flow::{Flow, Verdict};
use specola_proto::observer::get_flows_response::ResponseTypes;

use super::answer::{Answer, Sink};
use super::interrupt::Stopper;
use super::stream::NodeStream;
use super::{follow, interrupt};
use crate::printer::{Style, escape, extension, line};
use crate::target::{Timeout, parse_duration};
use crate::traffic::{By, Meter, Pair};

mod plain;
mod screen;
mod top;
mod view;

use self::top::Top;

/// The live view.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Live view")]
pub(crate) struct AggregateArgs {
    /// Show who talks to whom, the busiest first, instead of flows: live on a terminal (? explains the keys), else a
    /// table from time to time.
    #[arg(long, conflicts_with_all = ["input_file", "output", "last", "first", "all", "until"])]
    pub(crate) aggregate: bool,
    /// What peers are told apart by.
    #[arg(long, value_enum, default_value_t = By::Workload, requires = "aggregate")]
    pub(crate) by: By,
    /// Time between two pictures [default: 1s, and 5s without a terminal].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration::<Timeout>, requires = "aggregate")]
    pub(crate) interval: Option<Timeout>,
}

/// More pictures would be read by nobody.
const SHORTEST: Duration = Duration::from_millis(50);

/// Follows the streams and shows what they come to.
///
/// # Errors
/// No server can be reached, one refuses the request, or the terminal cannot be used.
pub(super) fn run(streams: Vec<NodeStream>, args: &AggregateArgs, style: Style) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let (interrupt, stopper) = interrupt::stoppable().context("cannot listen for signals")?;
        let shared = Arc::new(Shared::new());
        let live = Live { shared: Arc::clone(&shared), by: args.by, meter: Meter::default(), style };
        let shower = {
            let (shared, interval) =
                (Arc::clone(&shared), args.interval.map(|interval| interval.0.max(SHORTEST)));
            thread::spawn(move || show(&shared, interval, &stopper))
        };
        let outcome = follow::run(streams, live, interrupt).await;
        shared.ended.store(true, Ordering::Release);
        let shown = tokio::task::spawn_blocking(move || shower.join()).await?;
        let outcome = outcome?;
        match shown {
            Ok(shown) => {
                shown.context("cannot show the live view; `| cat` gives tables instead").map(|()| outcome)
            }
            Err(_panic) => anyhow::bail!("the live view broke down"),
        }
    })
}

/// Shows pictures until the end; then the stream is to end, too.
fn show(shared: &Shared, interval: Option<Duration>, stopper: &Stopper) -> io::Result<()> {
    let has_screen = io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
    let outcome = if has_screen {
        screen::run(shared, interval.unwrap_or(Duration::from_secs(1)))
    } else {
        print(shared, interval.unwrap_or(Duration::from_secs(5)))
    };
    stopper.stop();
    outcome
}

/// Prints a table now and then, and one at the end.
fn print(shared: &Shared, interval: Duration) -> io::Result<()> {
    let mut printed = Instant::now();
    loop {
        let has_ended = shared.has_ended();
        let now = Instant::now();
        if has_ended || now.saturating_duration_since(printed) >= interval {
            printed = now;
            let mut text = Vec::new();
            {
                let mut top = shared.top();
                top.tick(now);
                plain::print(&mut text, &top)?;
            }
            io::Write::write_all(&mut io::stdout(), &text)?;
        }
        if has_ended {
            return Ok(());
        }
        thread::sleep(SHORTEST);
    }
}

/// What the stream fills and the view shows.
struct Shared {
    top: Mutex<Top>,
    note: Mutex<String>,
    ended: AtomicBool,
}

impl Shared {
    fn new() -> Self {
        Self {
            top: Mutex::new(Top::new(Instant::now())),
            note: Mutex::new(String::new()),
            ended: AtomicBool::new(false),
        }
    }

    fn top(&self) -> MutexGuard<'_, Top> {
        self.top.lock()
    }

    /// The latest word about a connection.
    fn note(&self) -> String {
        self.note.lock().clone()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Puts flows into the rows.
struct Live {
    shared: Arc<Shared>,
    by: By,
    meter: Meter,
    style: Style,
}

impl Live {
    fn add(&mut self, flow: &Flow) -> io::Result<()> {
        let totals = self.meter.measure(flow, extension(flow).as_ref());
        let verdict = Verdict::try_from(flow.verdict).map_or("UNKNOWN", |verdict| verdict.as_str_name());
        let (pair, line) = (Pair::of(flow, self.by), line(flow, self.style)?);
        self.shared.top().add(pair, &totals, verdict, &line);
        Ok(())
    }
}

impl Sink for Live {
    fn take(&mut self, answer: &Answer) -> io::Result<()> {
        let Answer::Flow(response) = answer else { return Ok(()) };
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => self.add(flow),
            Some(ResponseTypes::LostEvents(lost)) => {
                self.shared.top().add_lost(lost.num_events_lost);
                Ok(())
            }
            Some(ResponseTypes::NodeStatus(status)) if !status.message.is_empty() => {
                self.note(&status.message)
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        *self.shared.note.lock() = escape(text);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
