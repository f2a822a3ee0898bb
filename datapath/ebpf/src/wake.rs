//! Waking the reader, which sleeps when no records come.
//!
//! Records are submitted without a wake-up, which costs as much as a hundred of them. The reader drains the lanes now and
//! then while records come; after a while without any it sets the word in [`SP_ASLEEP`], looks at the lanes once more,
//! and sleeps until the ring buffer [`SP_WAKE`] wakes it.
//!
//! No wake-up is lost. A program submits its record, then loads the word; the reader sets the word, then looks at the
//! lanes. Both have a full barrier in between (submitting is an atomic exchange in the kernel; the reader has a fence). So
//! the reader sees the record or the program sees the word set. A program that sees it set clears it and wakes the
//! reader, in this order: however late it does both, whoever was misled by the cleared word is helped by the wake-up that
//! follows.

use core::ptr;

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;

use crate::maps::{SP_ASLEEP, SP_WAKE};

/// Wakes the reader if it sleeps. To be called after a record was submitted.
#[inline(always)]
pub(crate) fn wake_sleeper() {
    let Some(asleep) = SP_ASLEEP.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a live map value of this type; volatile, because other CPUs and the reader change it.
    if unsafe { ptr::read_volatile(asleep) } == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(asleep, 0) };
    wake();
}

/// Wakes the reader, also from a pause.
#[inline(always)]
pub(crate) fn wake() {
    // Without room there are wake-ups that the reader has not answered yet.
    if let Some(entry) = SP_WAKE.reserve(0) {
        // The reader looks for no record here, and a discarded one needs no content.
        entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}
