use proptest::prelude::*;
use prost::bytes::Bytes;

use super::*;

const MS: u64 = 1_000_000;

fn limits(wait_ms: u64) -> Limits {
    Limits { wait_ns: wait_ms * MS, answers: 1 << 20, bytes: 1 << 30 }
}

fn flow(time_ns: u64, id: u64) -> Answer {
    Answer { kind: Kind::Flow, time_ns: Some(time_ns), bytes: Bytes::from(id.to_be_bytes().to_vec()) }
}

/// What left.
#[derive(Clone, Copy, Debug)]
struct Out {
    time_ns: u64,
    late_ns: u64,
    id: u64,
    skewed: bool,
}

impl Out {
    const fn seen(self) -> (u64, u64, u64) {
        (self.time_ns, self.late_ns, self.id)
    }
}

fn id(released: &Released) -> u64 {
    u64::from_be_bytes(released.answer.bytes[..].try_into().unwrap())
}

fn drain(merge: &mut Merge, now_ns: u64, out: &mut Vec<Out>) {
    while let Some(released) = merge.pop(now_ns) {
        let id = id(&released);
        let time_ns = released.answer.time_ns.unwrap();
        out.push(Out { time_ns, late_ns: released.late_ns, id, skewed: released.skewed });
    }
}

#[test]
fn history_waits_for_every_stream_that_speaks() {
    let mut merge = Merge::new(limits(1_000), false);
    let mut out = Vec::new();
    merge.add(1, 0);
    merge.add(2, 0);
    merge.push(1, flow(10, 0), 0);
    drain(&mut merge, 1, &mut out);
    assert!(out.is_empty() && merge.waits_for(2) && !merge.waits_for(1));
    assert!(merge.wants(2) && !merge.wants(1), "only what is missing is read");
    merge.push(2, flow(5, 1), 1);
    merge.end(2);
    drain(&mut merge, 1, &mut out);
    assert_eq!(out.iter().map(|out| out.seen()).collect::<Vec<_>>(), [(5, 0, 1), (10, 0, 0)]);
    merge.add(3, 0);
    merge.push(1, flow(20, 2), 2);
    merge.stall(3);
    drain(&mut merge, 3, &mut out);
    assert_eq!(
        out.last().map(|out| out.seen()),
        Some((20, 0, 2)),
        "nobody waits for a stream that is stalled"
    );
    merge.push(3, flow(12, 3), 4);
    merge.end(1);
    merge.end(3);
    drain(&mut merge, 4, &mut out);
    assert_eq!(out.last().map(|out| out.seen()), Some((12, 8, 3)), "late, marked, not lost");
    assert_eq!(merge.counts(), MergeCounts { flows: 4, late: 1, forced: 0, lost: 0 });
}

#[test]
fn a_follower_waits_as_long_as_flows_are_under_way() {
    let mut merge = Merge::new(limits(1_000), true);
    let mut out = Vec::new();
    let base = 1_000_000 * MS;
    for source in 0..3 {
        merge.add(source, 0);
    }
    // 0 and 1 take 2 ms, 2 says nothing.
    for step in 0..100 {
        let time = base + step * 10 * MS;
        let now = time + 2 * MS;
        merge.push((step % 2) as u32, flow(time, step), now);
        drain(&mut merge, now, &mut out);
        drain(&mut merge, now + 2 * MS, &mut out);
        assert_eq!(out.len() as u64, step + 1, "no flow waits more than 2 ms");
    }
    assert_eq!(merge.counts().late, 0);
}

#[test]
fn a_clock_that_is_off_disturbs_nobody() {
    let mut merge = Merge::new(limits(1_000), true);
    let mut out = Vec::new();
    let base = 1_000_000 * MS;
    for source in 0..3 {
        merge.add(source, 0);
    }
    for step in 0..300_u64 {
        let now = base + step * 10 * MS;
        let source = (step % 3) as u32;
        let time = if source == 2 { now + 3_600_000 * MS } else { now - MS };
        merge.push(source, flow(time, step), now);
        drain(&mut merge, now + 3 * MS, &mut out);
    }
    assert!(merge.sources[2].skewed && !merge.sources[0].skewed);
    assert_eq!((merge.take_newly_skewed(), merge.take_newly_skewed(), merge.skewed()), (vec![2], vec![], 1));
    assert!(merge.skew_ns(2).unwrap() < -3_500_000 * MS as i64, "{:?}", merge.skew_ns(2));
    let late = merge.sources[0].late + merge.sources[1].late;
    assert_eq!((out.len(), late), (300, 0), "flows of right clocks are in order");
}

#[test]
fn what_does_not_fit_leaves_early_and_is_counted() {
    let mut merge = Merge::new(Limits { answers: 4, ..limits(1_000) }, false);
    merge.add(1, 0);
    merge.add(2, 0);
    let mut out = Vec::new();
    for number in 0..10 {
        merge.push(1, flow(1 + number, number), 0);
        drain(&mut merge, 0, &mut out);
    }
    assert_eq!((out.len(), merge.held(), merge.counts().forced), (6, 4, 6));
}

/// A flow of a test: its stream, its time, how long it is under way.
type Sent = (u32, u64, u64);

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    proptest::collection::vec((0_u32..5, 0_u64..2_000, 0_u64..300), 1..200)
}

/// Delivers flows as they arrive. Gives what left, in this order, and the merge.
fn run(flows: &[Sent], limits: Limits, follow: bool, stall: bool) -> (Vec<Out>, Merge) {
    let base = 1_000_000;
    let mut arrivals: Vec<(u64, u32, u64, u64)> = flows
        .iter()
        .enumerate()
        .map(|(id, (source, at, way))| ((base + at + way) * MS, *source, (base + at) * MS, id as u64))
        .collect();
    arrivals.sort_unstable();
    let mut merge = Merge::new(limits, follow);
    let mut out = Vec::new();
    (0..5).for_each(|source| merge.add(source, 0));
    for (number, (now, source, time, id)) in arrivals.into_iter().enumerate() {
        // What was due before.
        while let Some(due) = merge.deadline_ns().filter(|due| *due < now) {
            drain(&mut merge, due, &mut out);
        }
        if stall && number % 7 == 0 {
            merge.stall((number % 5) as u32);
        }
        merge.push(source, flow(time, id), now);
        drain(&mut merge, now, &mut out);
    }
    (0..5).for_each(|source| merge.end(source));
    drain(&mut merge, u64::MAX, &mut out);
    (out, merge)
}

proptest! {
    #[test]
    fn nothing_is_lost_and_what_is_not_marked_is_in_order(
        flows in sent(), follow: bool, stall: bool, answers in 1_usize..50,
    ) {
        let (out, merge) = run(&flows, Limits { answers, ..limits(100) }, follow, stall);
        let mut ids: Vec<u64> = out.iter().map(|out| out.id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..flows.len() as u64).collect::<Vec<_>>(), "in = out");
        let in_order = out.iter().filter(|out| out.late_ns == 0 && !out.skewed).map(|out| out.time_ns);
        prop_assert!(in_order.is_sorted(), "{:?}", out);
        let late = out.iter().filter(|out| out.late_ns > 0).count() as u64;
        prop_assert_eq!((merge.counts().flows, merge.counts().late), (flows.len() as u64, late));
        prop_assert_eq!(merge.held(), 0);
    }

    #[test]
    fn no_inversion_is_larger_than_the_difference_of_the_ways(flows in sent()) {
        // All ways differ by less than 300 ms: so do times of flows that change places.
        let (out, _) = run(&flows, limits(300), true, false);
        for one in &out {
            prop_assert!(one.late_ns <= 300 * MS, "{:?}", one);
        }
    }

    #[test]
    fn history_is_exact_when_no_stream_stalls(flows in sent()) {
        // Within a stream, time goes forward.
        let mut flows: Vec<Sent> = flows;
        flows.sort_by_key(|(_, at, _)| *at);
        let flows: Vec<Sent> = flows.into_iter().map(|(source, at, _)| (source, at, 0)).collect();
        let (out, merge) = run(&flows, limits(1_000_000), false, false);
        prop_assert!(out.iter().map(|out| out.time_ns).is_sorted());
        prop_assert_eq!(merge.counts().late, 0);
    }
}
