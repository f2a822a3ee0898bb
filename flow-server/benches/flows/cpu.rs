//! CPU time and memory of this process.

use std::time::Duration;

use anyhow::Context;
use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};

/// CPU time of this thread, ns.
pub(crate) fn thread_ns() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the thread's CPU time")?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
}

/// CPU time of all threads, user and system, ns.
pub(crate) fn process_ns() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("read the resource usage")?;
    let micros = |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok((micros(usage.user_time())? + micros(usage.system_time())?) * 1_000)
}

/// Resident memory, bytes.
pub(crate) fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("read the memory use")?;
    let pages: u64 = text.split_whitespace().nth(1).context("no resident size")?.parse()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * u64::try_from(page)?)
}
