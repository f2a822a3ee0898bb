//! The ring against a plain list, and under threads.
#![cfg(not(loom))]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use proptest::prelude::*;
use specola_ring::{InvalidCapacity, Next, Read, ring};
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[test]
fn capacities() {
    for capacity in [1, 2, 4, 1024, 4096, 1 << 20] {
        let (_, reader) = ring::<u64>(capacity).unwrap();
        assert_eq!(reader.capacity(), capacity as u64);
    }
    for capacity in [0, 3, 4095, usize::MAX, 1 << 29] {
        assert_eq!(ring::<u64>(capacity).unwrap_err(), InvalidCapacity::NotPowerOfTwo(capacity));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64),
    Next(usize),
    Read(u64),
    Since(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..50_u64).prop_map(Step::Push),
        4 => (0..3_usize).prop_map(Step::Next),
        1 => (0..200_u64).prop_map(Step::Read),
        1 => (0..60_u64).prop_map(Step::Since),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn equals_a_list(capacity_bits in 0..6_u32, steps in steps()) {
        let capacity = 1_usize << capacity_bits;
        let (mut writer, reader) = ring::<[u64; 3]>(capacity).unwrap();
        let mut cursors = [reader.cursor(0), reader.cursor(0), reader.cursor(7)];
        // All times ever pushed; the ring holds the last `capacity` of them.
        let mut all: Vec<u64> = Vec::new();
        for step in steps {
            let oldest = all.len().saturating_sub(capacity);
            match step {
                Step::Push(time) => {
                    let seq = writer.push(&record(all.len(), time), time);
                    prop_assert_eq!(seq, all.len() as u64);
                    all.push(time);
                }
                Step::Next(which) => {
                    let cursor = &mut cursors[which];
                    let position = cursor.position() as usize;
                    match cursor.next() {
                        Next::Pending => prop_assert!(position >= all.len()),
                        Next::Item { seq, value } => {
                            prop_assert_eq!(seq as usize, position);
                            prop_assert!(position >= oldest);
                            prop_assert_eq!(value, record(position, all[position]));
                        }
                        Next::Lost(lost) => {
                            prop_assert!(position < oldest);
                            prop_assert_eq!(lost.from as usize, position);
                            prop_assert_eq!(lost.to, cursor.position());
                            prop_assert!(lost.to as usize >= oldest && lost.to as usize <= all.len());
                        }
                    }
                }
                Step::Read(seq) => {
                    let expected = match all.get(seq as usize) {
                        None => Read::Pending,
                        Some(_) if (seq as usize) < oldest => Read::Overwritten,
                        Some(time) => Read::Item(record(seq as usize, *time)),
                    };
                    prop_assert_eq!(reader.read(seq), expected);
                }
                Step::Since(since) => {
                    let start = reader.seek_since(since) as usize;
                    prop_assert!(start >= oldest && start <= all.len());
                    prop_assert!(all[oldest..start].iter().all(|time| *time < since));
                }
            }
            prop_assert_eq!(reader.head(), all.len() as u64);
            prop_assert_eq!(reader.oldest(), all.len().saturating_sub(capacity) as u64);
            prop_assert_eq!(reader.held() + reader.overwritten(), all.len() as u64);
        }
    }
}

fn record(index: usize, time: u64) -> [u64; 3] {
    [index as u64, time, !(index as u64)]
}

#[test]
fn seeking_skips_whole_blocks() {
    let (mut writer, reader) = ring::<u64>(4096).unwrap();
    for time in 0..5_000 {
        writer.push(&time, time);
    }
    // 904 to 1023 remain of a block whose times are gone; blocks begin at 1024, 2048, 3072 and 4096.
    assert_eq!(reader.oldest(), 904);
    for (since, start) in [(0, 904), (1_500, 904), (4_999, 904)] {
        assert_eq!(reader.seek_since(since), start);
    }
    for time in 5_000..5_120 {
        writer.push(&time, time);
    }
    assert_eq!(reader.oldest(), 1024);
    for (since, start) in [(0, 1024), (2_047, 1024), (2_048, 2048), (5_119, 4096), (9_999, 5120)] {
        assert_eq!(reader.seek_since(since), start, "{since}");
    }
    let block = reader.block(3_000).unwrap();
    assert_eq!((block.first, block.end, block.min_ns, block.max_ns), (2048, 3072, 2048, 3071));
    assert_eq!(reader.block(5_000).unwrap().max_ns, 5_119);
    assert_eq!(reader.block(5_120), None);
    assert_eq!(reader.block(1_000), None);
}

/// A record whose words all follow from the first: a torn copy would show.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
struct Chained([u64; 23]);

impl Chained {
    fn new(seed: u64) -> Self {
        let mut words = [0; 23];
        let mut word = seed;
        for slot in &mut words {
            *slot = word;
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        Self(words)
    }
}

#[test]
fn readers_under_a_fast_writer_see_whole_records_and_exact_losses() {
    const RECORDS: u64 = 300_000;
    let (mut writer, reader) = ring::<Chained>(64).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (mut cursor, done) = (reader.cursor(0), &done);
                scope.spawn(move || {
                    let (mut got, mut lost_total) = (0, 0);
                    loop {
                        // Read before the ring is, so that nothing pushed before it was set is missed.
                        let is_done = done.load(Ordering::Acquire);
                        match cursor.next() {
                            Next::Item { seq, value } => {
                                assert_eq!(value, Chained::new(seq));
                                got += 1;
                            }
                            Next::Lost(lost) => {
                                assert!(lost.from < lost.to);
                                lost_total += lost.count();
                            }
                            Next::Pending if is_done => return (got, lost_total),
                            Next::Pending => thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        for seed in 0..RECORDS {
            writer.push(&Chained::new(seed), seed);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (got, lost) = reader.join().unwrap();
            assert_eq!(got + lost, RECORDS);
            assert!(got > 0);
        }
    });
}
