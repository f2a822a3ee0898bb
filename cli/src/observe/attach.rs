//! `specola observe --attach`: flows of this machine's devices without a daemon.

use std::io::{self, BufWriter};
use std::process::ExitCode;

use anyhow::Context as _;
use specola_agent::{Devices, Look};
use tokio::sync::oneshot;

use super::args::ObserveArgs;
use super::plan::Plan;
use super::stream::NodeStream;
use super::{follow, interrupt};
use crate::personality::Personality;
use crate::printer::Printer;
use crate::target::Target;

/// Attaches to the devices, prints what passes until the user wants to stop, and leaves nothing behind.
///
/// # Errors
/// The arguments are wrong, or programs cannot be attached.
pub(super) fn run(args: &ObserveArgs, devices: &Devices) -> anyhow::Result<ExitCode> {
    let mut plan = Plan::new(args, jiff::Timestamp::now(), false, Personality::Specola)?;
    plan.request.follow = true;
    // All flows since the programs were attached.
    plan.request.number = u64::MAX;
    let printer = Printer::new(plan.style, BufWriter::new(io::stdout()), io::stderr());
    // Before the runtime's threads are there.
    let look = Look::prepare(devices.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = interrupt::listen().context("cannot listen for signals")?;
        let target = Target::unix(format!("programs on {devices}"), look.observer_socket());
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        // A sender that is gone is a stop as well.
        let stopped = async move { drop(stopped.await) };
        let work = tokio::spawn(look.run(stopped, move || {
            // Whoever waits for it may have been interrupted.
            let (Ok(()) | Err(())) = ready.send(());
        }));
        let outcome = tokio::select! {
            biased;
            () = interrupt.signaled() => Ok(ExitCode::SUCCESS),
            is_ready = is_ready => match is_ready {
                Ok(()) => {
                    let stream = NodeStream::new(target, plan.question(), args.target.timeout);
                    follow::run(vec![stream], printer, interrupt).await
                }
                // It failed; how, it says itself.
                Err(_gone) => Ok(ExitCode::FAILURE),
            },
        };
        drop(stop);
        work.await??;
        outcome
    })
}
