//! What is measured, in CPU time of the threads that do it: other programs on the machine count less than in wall time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::time::{ClockId, clock_gettime};

use crate::designs::{At, Design, record};

/// CPU time of the calling thread, ns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock exists");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// ns per record, with this many threads that follow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Followed {
    /// The writer's share.
    pub(crate) push: f64,
    /// A reader's share, for each record that it got.
    pub(crate) read: f64,
    /// Part of the records that a reader missed, %.
    pub(crate) lost: f64,
}

/// Pushes `records` while `readers` threads follow.
pub(crate) fn followed<D: Design>(capacity: usize, records: u64, readers: usize) -> Followed {
    let (mut writer, reader) = D::new(capacity);
    // Pages are touched before the clock runs.
    for seq in 0..capacity as u64 {
        D::push(&mut writer, &record(seq));
    }
    let done = AtomicBool::new(false);
    let start = D::head(&reader);
    thread::scope(|scope| {
        let followers: Vec<_> = (0..readers)
            .map(|_| {
                let (reader, done) = (reader.clone(), &done);
                scope.spawn(move || follow::<D>(&reader, start, capacity as u64, done))
            })
            .collect();
        let before = cpu_ns();
        for seq in start..start + records {
            D::push(&mut writer, &record(seq));
        }
        let push = (cpu_ns() - before) as f64 / records as f64;
        done.store(true, Ordering::Release);
        let (mut got, mut spent) = (0, 0);
        for follower in followers {
            let (one_got, one_spent) = follower.join().expect("a reader panicked");
            got += one_got;
            spent += one_spent;
        }
        let asked = (records * readers as u64).max(1);
        Followed {
            push,
            read: spent as f64 / got.max(1) as f64,
            lost: 100.0 * (asked - got.min(asked)) as f64 / asked as f64,
        }
    })
}

/// Gives how many records it got, and the CPU time of the reads that got one.
fn follow<D: Design>(reader: &D::Reader, start: u64, capacity: u64, done: &AtomicBool) -> (u64, u64) {
    let (mut next, mut got, mut spent) = (start, 0, 0);
    let mut before = cpu_ns();
    loop {
        let is_done = done.load(Ordering::Acquire);
        match D::read(reader, next) {
            At::Record(found) => {
                assert_eq!(found, next);
                next += 1;
                got += 1;
            }
            At::Overwritten => next = D::head(reader) - capacity / 2,
            At::Pending => {
                spent += cpu_ns() - before;
                if is_done {
                    return (got, spent);
                }
                thread::yield_now();
                before = cpu_ns();
            }
        }
    }
}

/// Reads a full ring from its oldest record to its newest: ns per record.
pub(crate) fn drain<D: Design>(capacity: usize, rounds: u64) -> f64 {
    let (mut writer, reader) = D::new(capacity);
    // Twice, so that records lie as they do in a ring that has turned over.
    for seq in 0..2 * capacity as u64 {
        D::push(&mut writer, &record(seq));
    }
    let head = D::head(&reader);
    let before = cpu_ns();
    for _ in 0..rounds {
        for seq in head - capacity as u64..head {
            assert_eq!(D::read(&reader, seq), At::Record(seq));
        }
    }
    (cpu_ns() - before) as f64 / (rounds * capacity as u64) as f64
}

/// Pushes batches and wakes a follower that sleeps when it has all: CPU time of both sides, ns per record.
pub(crate) fn handed_over<D: Design>(capacity: usize, records: u64, batch: u64) -> f64 {
    let (mut writer, reader) = D::new(capacity);
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        let taken = &taken;
        let follower = scope.spawn(move || {
            let before = cpu_ns();
            let mut next = 0;
            while next < records {
                match D::read(&reader, next) {
                    At::Record(found) => {
                        assert_eq!(found, next);
                        next += 1;
                    }
                    At::Overwritten => panic!("the writer waits for this reader"),
                    At::Pending => {
                        taken.store(next, Ordering::Release);
                        thread::park();
                    }
                }
            }
            taken.store(next, Ordering::Release);
            cpu_ns() - before
        });
        let mut spent = 0;
        for first in (0..records).step_by(batch as usize) {
            let before = cpu_ns();
            for seq in first..(first + batch).min(records) {
                D::push(&mut writer, &record(seq));
            }
            follower.thread().unpark();
            spent += cpu_ns() - before;
            while taken.load(Ordering::Acquire) + capacity as u64 / 2 < first {
                thread::yield_now();
            }
        }
        (spent + follower.join().expect("the follower panicked")) as f64 / records as f64
    })
}

/// Bytes that a full ring keeps from the allocator, per record.
pub(crate) fn bytes<D: Design>(capacity: usize, live: impl Fn() -> usize) -> f64 {
    let before = live();
    let (mut writer, _reader) = D::new(capacity);
    for seq in 0..4 * capacity as u64 {
        D::push(&mut writer, &record(seq));
    }
    (live() - before) as f64 / capacity as f64
}
