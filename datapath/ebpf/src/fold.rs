//! Denies of one key beyond so many per second are counted, not written (`specola_datapath_common::fold`).

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use specola_datapath_common::fold::{FOLD_WINDOW_NS, FoldCount, FoldKey};

use crate::{
    config::CFG_FOLD_PER_SECOND,
    conntrack::add,
    maps::{SP_FOLD, SP_FOLD_SAMPLE},
    work::Work,
};

/// Counts the packet instead of its record, if its key had its share of this second. False: the record is to be written.
#[inline(always)]
pub(crate) fn fold(work: &mut Work) -> bool {
    let limit = u64::from(CFG_FOLD_PER_SECOND.load());
    if limit == 0 {
        return false;
    }
    work.fold_key = FoldKey::of(&work.event);
    let now = work.event.boot_ns / FOLD_WINDOW_NS;
    let Some(count) = SP_FOLD.get_ptr_mut(&work.fold_key) else {
        // When there is no room, or another CPU was faster, nothing is lost: the record is written.
        let (Ok(()) | Err(_)) = begin(work, now);
        return false;
    };
    // SAFETY: a live map value. The sums are changed atomically; the other fields by single stores of words, and what
    // a race on them costs is a record more or less than the limit.
    let count = unsafe { &mut *count };
    if load(&count.window) < now {
        store(&mut count.window, now);
        store(&mut count.verbatim, 0);
    }
    if load(&count.verbatim) < limit {
        add(&mut count.verbatim, 1);
        return false;
    }
    if load(&count.sample_window) != now {
        if SP_FOLD_SAMPLE.insert(&work.fold_key, &work.event, 0).is_err() {
            return false;
        }
        store(&mut count.sample_window, now);
    }
    add(&mut count.packets, 1);
    add(&mut count.bytes, u64::from(work.event.length));
    store(&mut count.last_ns, work.event.boot_ns);
    true
}

/// Makes the entry of a new key.
#[inline(always)]
fn begin(work: &mut Work, now: u64) -> Result<(), i32> {
    work.fold_count = FoldCount {
        created_ns: work.event.boot_ns,
        window: now,
        verbatim: 1,
        sample_window: 0,
        packets: 0,
        bytes: 0,
        last_ns: 0,
    };
    SP_FOLD.insert(&work.fold_key, &work.fold_count, u64::from(BPF_NOEXIST))
}

#[inline(always)]
fn load(word: &u64) -> u64 {
    // SAFETY: a reference; volatile, because other CPUs change the word.
    unsafe { ptr::read_volatile(word) }
}

#[inline(always)]
fn store(word: &mut u64, value: u64) {
    // SAFETY: as above.
    unsafe { ptr::write_volatile(word, value) };
}
