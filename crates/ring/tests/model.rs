//! The ring against a plain list, and under threads.
#![cfg(not(loom))]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use proptest::prelude::*;
use specola_ring::{Class, InvalidCapacity, Next, Read, protected_places, ring, ring_with};
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
    assert_eq!(ring_with::<u64>(4, 3).unwrap_err(), InvalidCapacity::NotPowerOfTwo(3));
}

#[test]
fn protected_parts_are_rounded_up() {
    for (capacity, percent, places) in
        [(4096, 25, 1024), (4096, 26, 2048), (4096, 0, 0), (2, 25, 0), (64, 1, 0), (128, 1, 1), (8, 100, 8)]
    {
        assert_eq!(protected_places(capacity, percent), places, "{percent} % of {capacity}");
    }
}

#[test]
fn protected_records_stay_as_long_as_there_are_places_for_them() {
    for (places, oldest) in [(0, 10), (2, 2), (8, 0)] {
        let (mut writer, reader) = ring_with::<u64>(2, places).unwrap();
        for seq in 0..12 {
            writer.push(&seq, 0, if seq < 4 { Class::Protected } else { Class::Common });
        }
        assert_eq!((reader.oldest(), reader.oldest_protected()), (10, oldest), "{places} places");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64, Class),
    Next(usize),
    Read(u64),
    Before(u64),
    Since(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![3 => Just(Class::Common), 1 => Just(Class::Protected)];
    let step = prop_oneof![
        4 => (0..50_u64, class).prop_map(|(time, class)| Step::Push(time, class)),
        4 => (0..3_usize).prop_map(Step::Next),
        1 => (0..200_u64).prop_map(Step::Read),
        1 => (0..200_u64).prop_map(Step::Before),
        1 => (0..60_u64).prop_map(Step::Since),
    ];
    proptest::collection::vec(step, 0..300)
}

/// All that was ever pushed, and which of it the ring must hold.
struct Model {
    capacity: usize,
    all: Vec<(u64, Class)>,
}

impl Model {
    fn oldest(&self) -> usize {
        self.all.len().saturating_sub(self.capacity)
    }

    /// Whether the ring holds the record: it is one of the last, or one of the last protected ones.
    fn holds(&self, index: usize) -> bool {
        let later = || self.all[index + 1..].iter().filter(|(_, class)| *class == Class::Protected).count();
        let is_kept = || self.all[index].1 == Class::Protected && later() < self.capacity / 4;
        index < self.all.len() && (index >= self.oldest() || is_kept())
    }

    fn record(&self, index: usize) -> [u64; 3] {
        record(index, self.all[index].0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn equals_a_list(capacity_bits in 0..6_u32, steps in steps()) {
        let capacity = 1_usize << capacity_bits;
        let (mut writer, reader) = ring::<[u64; 3]>(capacity).unwrap();
        let mut cursors = [reader.cursor(0), reader.cursor(0), reader.cursor(7)];
        let mut model = Model { capacity, all: Vec::new() };
        for step in steps {
            match step {
                Step::Push(time, class) => {
                    let seq = writer.push(&record(model.all.len(), time), time, class);
                    prop_assert_eq!(seq, model.all.len() as u64);
                    model.all.push((time, class));
                }
                Step::Next(which) => check_next(&mut cursors[which], &model)?,
                Step::Read(seq) => {
                    let index = seq as usize;
                    let expected = match index {
                        _ if index >= model.all.len() => Read::Pending,
                        _ if model.holds(index) => Read::Item(model.record(index)),
                        _ => Read::Overwritten,
                    };
                    prop_assert_eq!(reader.read(seq), expected);
                }
                Step::Before(seq) => {
                    let newest = (0..model.all.len().min(seq as usize)).rev().find(|index| model.holds(*index));
                    let expected = newest.map(|index| (index as u64, model.record(index)));
                    prop_assert_eq!(reader.before(seq), expected);
                }
                Step::Since(since) => {
                    let start = reader.seek_since(since) as usize;
                    prop_assert!(start <= model.all.len());
                    prop_assert!((0..start).all(|index| !model.holds(index) || model.all[index].0 < since));
                }
            }
            let held: Vec<usize> = (0..model.all.len()).filter(|index| model.holds(*index)).collect();
            prop_assert_eq!(reader.head(), model.all.len() as u64);
            prop_assert_eq!(reader.oldest(), model.oldest() as u64);
            prop_assert_eq!(reader.oldest_protected(), held.first().copied().unwrap_or_default() as u64);
            prop_assert_eq!(reader.held() + reader.overwritten(), model.all.len() as u64);
        }
    }

    #[test]
    fn a_new_cursor_gets_all_that_is_held_and_no_loss(
        capacity_bits in 0..6_u32,
        classes in proptest::collection::vec(prop_oneof![Just(Class::Common), Just(Class::Protected)], 0..200),
    ) {
        let capacity = 1_usize << capacity_bits;
        let (mut writer, reader) = ring::<[u64; 3]>(capacity).unwrap();
        let mut model = Model { capacity, all: Vec::new() };
        for (index, class) in classes.into_iter().enumerate() {
            writer.push(&record(index, 0), 0, class);
            model.all.push((0, class));
        }
        let mut cursor = reader.cursor(0);
        for index in (0..model.all.len()).filter(|index| model.holds(*index)) {
            prop_assert_eq!(cursor.next(), Next::Item { seq: index as u64, value: model.record(index) });
        }
        prop_assert_eq!(cursor.next(), Next::Pending);
    }
}

fn check_next(cursor: &mut specola_ring::Cursor<[u64; 3]>, model: &Model) -> Result<(), TestCaseError> {
    let position = cursor.position() as usize;
    match cursor.next() {
        Next::Pending => prop_assert!(position >= model.all.len()),
        Next::Item { seq, value } => {
            prop_assert_eq!(seq as usize, position);
            prop_assert!(model.holds(position));
            prop_assert_eq!(value, model.record(position));
        }
        Next::Lost(lost) => {
            let (from, to) = (lost.from as usize, lost.to as usize);
            prop_assert_eq!((from, lost.to), (position, cursor.position()));
            prop_assert!(!model.holds(position));
            prop_assert!(to > from && to <= model.all.len());
            // No protected record that is held is skipped, unless it lies among what is skipped to get clear.
            prop_assert!((from..to).all(|index| !model.holds(index) || index >= model.oldest()));
        }
    }
    Ok(())
}

fn record(index: usize, time: u64) -> [u64; 3] {
    [index as u64, time, !(index as u64)]
}

#[test]
fn seeking_skips_whole_blocks() {
    let (mut writer, reader) = ring::<u64>(4096).unwrap();
    for time in 0..5_000 {
        writer.push(&time, time, Class::Common);
    }
    // 904 to 1023 remain of a block whose times are gone; blocks begin at 1024, 2048, 3072 and 4096.
    assert_eq!(reader.oldest(), 904);
    for (since, start) in [(0, 904), (1_500, 904), (4_999, 904)] {
        assert_eq!(reader.seek_since(since), start);
    }
    for time in 5_000..5_120 {
        writer.push(&time, time, Class::Common);
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
            let class = if seed % 7 == 0 { Class::Protected } else { Class::Common };
            writer.push(&Chained::new(seed), seed, class);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (got, lost) = reader.join().unwrap();
            assert_eq!(got + lost, RECORDS);
            assert!(got > 0);
        }
    });
}
