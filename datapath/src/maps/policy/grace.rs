//! Waiting until no running program can still hold what it looked up before.

use std::time::Duration;

/// Returns after every program run that was under way at the call has ended.
///
/// `membarrier(GLOBAL)` waits for one kernel RCU grace period; programs on the traffic hooks run inside RCU read
/// sections. Where the kernel does not offer it (full dynticks), a wait of many scheduler ticks stands in: a program
/// run takes microseconds.
pub(super) fn wait_for_readers() {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(STAND_IN);
    }
}

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
const STAND_IN: Duration = Duration::from_millis(50);
