//! The processes of a measurement: what they have in common, and what they cost.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process of this program. It ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts one that serves, and waits until it does.
    pub(crate) fn serving(arguments: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process")?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut line)?;
        let process = Self { child, _stdin: stdin };
        ensure!(line.trim() == "ready", "{arguments:?} did not start");
        Ok(process)
    }

    /// CPU time of all its threads so far, ns.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        let time = clock_gettime(clock_getcpuclockid(pid)?).context("read the CPU time of a process")?;
        Ok(u64::try_from(Duration::from(time).as_nanos())?)
    }

    /// Its resident memory, bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: u64 = text.split_whitespace().nth(1).context("no resident size")?.parse()?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
        Ok(pages * u64::try_from(page)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let (Ok(()) | Err(_)) = self.child.kill();
        let (Ok(_) | Err(_)) = self.child.wait();
    }
}

/// In such a process: starts what serves, says so, and ends with its input.
pub(crate) fn serve(start: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(start)?;
    writeln!(std::io::stdout(), "ready")?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}
