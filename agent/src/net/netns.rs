//! Work in another network namespace.

use std::fs::File;
use std::future::Future;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;

use super::NetError;

/// Runs `work` on a thread of its own inside the namespace, with a netlink handle of that namespace. Blocks.
pub(super) fn in_netns<T, F, W>(netns: &Path, work: W) -> Result<T, NetError>
where
    T: Send,
    F: Future<Output = Result<T, NetError>>,
    W: FnOnce(Handle) -> F + Send,
{
    let thread = |cause| NetError::Thread { path: netns.to_owned(), cause };
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("pod-netns".to_owned())
            .spawn_scoped(scope, || enter_and_run(netns, work))
            .map_err(thread)?;
        worker.join().unwrap_or_else(|_| Err(NetError::Panicked { path: netns.to_owned() }))
    })
}

fn enter_and_run<T, F, W>(netns: &Path, work: W) -> Result<T, NetError>
where
    F: Future<Output = Result<T, NetError>>,
    W: FnOnce(Handle) -> F,
{
    let enter = |cause| NetError::Enter { path: netns.to_owned(), cause };
    let file = File::open(netns).map_err(enter)?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| enter(errno.into()))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetError::Socket)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Socket)?;
        // Ends with the runtime, that is, with this thread.
        drop(tokio::spawn(connection));
        work(handle).await
    })
}
