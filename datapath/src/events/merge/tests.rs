use std::collections::VecDeque;

use proptest::prelude::*;
use specola_datapath_common::event::kind;

use super::*;

struct Queue(VecDeque<Result<Event, BadEvent>>);

impl Lane for Queue {
    fn pop(&mut self) -> Option<Result<Event, BadEvent>> {
        self.0.pop_front()
    }
}

fn event(boot_ns: u64, lane: u8) -> Event {
    Event { boot_ns, lane, kind: kind::TRACE, ..Event::zeroed() }
}

fn lane_of(lane: u8, stamps: &[u64]) -> Queue {
    Queue(stamps.iter().map(|stamp| Ok(event(*stamp, lane))).collect())
}

fn merge(stamps: [&[u64]; 3], limit: usize) -> Merge<Queue> {
    let [deny, allow, trace] = stamps;
    Merge::new([lane_of(0, deny), lane_of(1, allow), lane_of(2, trace)], limit)
}

fn stamps(merge: &Merge<Queue>) -> Vec<u64> {
    merge.batch().iter().map(|event| event.boot_ns).collect()
}

#[test]
fn lanes_are_merged_and_what_is_later_than_the_cut_waits() {
    let mut merge = merge([&[10, 40], &[20, 25, 50], &[5, 60]], 100);
    for (cut, expected) in [
        (4, vec![]),
        (25, vec![5, 10, 20, 25]),
        (25, vec![]),
        (49, vec![40]),
        (60, vec![50, 60]),
        (1000, vec![]),
    ] {
        merge.collect(cut);
        assert_eq!(stamps(&merge), expected, "cut {cut}");
        assert!(!merge.is_full());
    }
    assert_eq!(merge.consumed(), [2, 3, 2]);
}

#[test]
fn inversions_inside_a_lane_are_put_right() {
    let mut merge = merge([&[30, 10, 20], &[15], &[]], 100);
    merge.collect(100);
    assert_eq!(stamps(&merge), [10, 15, 20, 30]);
}

#[test]
fn a_batch_has_a_limit_and_says_so() {
    let mut merge = merge([&[1, 4], &[2, 5], &[3, 6]], 4);
    merge.collect(100);
    assert_eq!(stamps(&merge), [1, 2, 3, 4]);
    assert!(merge.is_full());
    merge.collect(100);
    assert_eq!(stamps(&merge), [5, 6]);
    assert!(!merge.is_full());
}

#[test]
fn a_stamp_from_the_far_future_does_not_block_its_lane() {
    let mut merge = merge([&[u64::MAX, 10], &[], &[]], 100);
    merge.collect(20);
    assert_eq!(stamps(&merge), [10, u64::MAX]);
}

#[test]
fn bad_samples_are_counted_by_reason_and_hide_nothing_behind_them() {
    let bad = [
        Err(BadEvent::Size { have: 3 }),
        Err(BadEvent::Abi { have: 9 }),
        Err(BadEvent::Abi { have: 0 }),
        Err(BadEvent::Kind { have: 77 }),
        Ok(event(1, 0)),
    ];
    let lanes = [Queue(bad.into()), lane_of(1, &[2]), lane_of(2, &[])];
    let mut merge = Merge::new(lanes, 100);
    merge.collect(10);
    assert_eq!(stamps(&merge), [1, 2]);
    assert_eq!(merge.rejected(), Rejected { size: 1, abi: 2, kind: 1 });
    assert_eq!(merge.consumed(), [5, 1, 0]);
    merge.collect(10);
    assert_eq!(merge.rejected().total(), 0, "counts are of the latest round");
}

#[test]
fn a_flood_of_bad_samples_ends_the_round() {
    let bad = (0..MAX_REJECTED + 10).map(|_| Err(BadEvent::Size { have: 1 }));
    let mut merge = Merge::new([Queue(bad.collect()), lane_of(1, &[]), lane_of(2, &[])], 100);
    merge.collect(10);
    assert_eq!(merge.rejected().size, MAX_REJECTED);
    assert!(merge.is_full(), "there is more");
    merge.collect(10);
    assert_eq!(merge.rejected().size, 10);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_rounds_are_in_order(
        deny in prop::collection::vec(0u64..1000, 0..50),
        allow in prop::collection::vec(0u64..1000, 0..50),
        trace in prop::collection::vec(0u64..1000, 0..50),
        step in 1u64..300,
        limit in 1usize..40,
    ) {
        let mut expected: Vec<u64> = deny.iter().chain(&allow).chain(&trace).copied().collect();
        let mut merge = merge([&deny, &allow, &trace], limit);
        let mut taken = Vec::new();
        let mut cut = 0;
        while cut < 1000 + step {
            merge.collect(cut);
            prop_assert!(merge.batch().is_sorted_by_key(|event| event.boot_ns));
            prop_assert!(merge.batch().iter().all(|event| event.boot_ns <= cut));
            taken.extend(stamps(&merge));
            if !merge.is_full() {
                cut += step;
            }
        }
        taken.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn any_bytes_are_an_event_or_a_counted_reason(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut rejected = Rejected::default();
        match Event::from_bytes(&bytes) {
            Ok(event) => prop_assert_eq!(event.as_bytes(), &bytes[..]),
            Err(bad) => rejected.count(bad),
        }
        prop_assert!(rejected.total() <= 1);
    }
}
