//! Ctrl-C and SIGTERM.

use std::io;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Tells whether the user wants to stop.
#[derive(Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Waits for the signal. Cancel-safe.
    pub(crate) async fn signaled(&mut self) {
        // The sender lives as long as its task, which only ends with the process.
        if self.0.wait_for(|signaled| *signaled).await.is_err() {
            std::future::pending().await
        }
    }

    /// An interrupt that comes when told to.
    #[cfg(test)]
    pub(crate) fn for_test() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }
}

/// Gives the interrupt as if the user had.
pub(crate) struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// Ends what waits for the interrupt.
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Starts to listen. A command that does not end soon after a signal (its output is stuck) is ended.
///
/// # Errors
/// Handlers cannot be installed.
pub(crate) fn listen() -> io::Result<Interrupt> {
    Ok(stoppable()?.0)
}

/// The same with a second way to give the interrupt.
///
/// # Errors
/// Handlers cannot be installed.
pub(crate) fn stoppable() -> io::Result<(Interrupt, Stopper)> {
    let (sender, receiver) = watch::channel(false);
    let sender = Arc::new(sender);
    let stopper = Stopper(Arc::clone(&sender));
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        either(&mut int, &mut term).await;
        sender.send_replace(true);
        tokio::select! {
            () = either(&mut int, &mut term) => {}
            () = tokio::time::sleep(GRACE) => {}
        }
        process::exit(INTERRUPTED.into());
    });
    Ok((Interrupt(receiver), stopper))
}

async fn either(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

/// Exit code of a command that Ctrl-C ended before it was done.
pub(crate) const INTERRUPTED: u8 = 130;
const GRACE: Duration = Duration::from_secs(2);
