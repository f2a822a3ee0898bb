//! As many endpoints as a large node has.

use std::time::Instant;

use super::*;

/// Rules of each endpoint.
const RULES: u16 = 50;

/// One policy of all endpoints is exchanged by another one that allows the same traffic, while bob gets traffic that
/// both allow. `SPECOLA_SCALE_ENDPOINTS` makes it smaller.
#[expect(clippy::print_stdout, reason = "figures for who asks with --nocapture")]
#[test]
fn a_thousand_endpoints_change_their_policy_without_a_wrong_verdict() {
    let wanted = std::env::var("SPECOLA_SCALE_ENDPOINTS").map_or(1000, |text| text.parse().unwrap());
    let mut node = Node::new(AttachMode::Auto);
    let alice_identity = 1000 + u32::from(ALICE.0);
    let (by_identity, by_port) = (udp(allow(alice_identity, 9000, 1)), udp(allow(0, 9000, 2)));
    node.let_into_bob(&[by_identity]);

    let started = Instant::now();
    for slot in 3..=wanted {
        let record = endpoint(slot, 10_000 + u32::from(slot));
        node.datapath.add_endpoint(slot, &record).unwrap();
        let info = IpInfo { identity: record.identity, slot, ..IpInfo::default() };
        node.datapath.upsert_ip(IpNet::from(std::net::IpAddr::from(record.ipv4)), info).unwrap();
    }
    let added = started.elapsed();

    let rules: Vec<_> = (0..RULES).map(|port| allow(300 + u32::from(port), 1000 + port, 3)).collect();
    let fill = |slot| PolicyUpdate {
        slot,
        upserts: rules.iter().copied().chain([allow_all(EGRESS), by_identity]).collect(),
        deletes: Vec::new(),
        state: ready(1),
    };
    let started = Instant::now();
    apply(&mut node, (2..=wanted).map(fill).collect());
    let filled = started.elapsed();

    let change = |round: u32| {
        let (add, remove) =
            if round.is_multiple_of(2) { (by_port, by_identity) } else { (by_identity, by_port) };
        move |slot| PolicyUpdate { slot, upserts: vec![add], deletes: vec![remove.0], state: ready(round) }
    };
    let (from_alice, at_bob) = (Node::socket(&node.alice, 40000), Node::socket(&node.bob, 9000));
    let (sent, received, changed) = under_traffic(&from_alice, &at_bob, || {
        let rounds = 2..=4;
        rounds
            .map(|round| {
                let started = Instant::now();
                apply(&mut node, (2..=wanted).map(change(round)).collect());
                started.elapsed()
            })
            .collect::<Vec<_>>()
    });
    println!(
        "{wanted} endpoints: added in {added:?}, {RULES} rules each in {filled:?}, one rule changed in all in \
         {changed:?}; {} MiB of maps, {sent} packets meanwhile",
        map_bytes() >> 20
    );
    assert!(sent > 0);
    assert_eq!(node.dropped(drop::POLICY_DENIED), 0);
    assert_eq!(node.dropped(drop::EP_NOT_READY), 0);
    assert_eq!(received, sent);
    let expected: HashMap<_, _> = rules.iter().copied().chain([allow_all(EGRESS), by_port]).collect();
    for slot in 2..=wanted {
        assert!(node.datapath.is_ready(slot));
        for side in 0..2 {
            assert_eq!(node.datapath.policy_side(slot, side).unwrap(), expected, "slot {slot}, trie {side}");
        }
    }
}

fn apply(node: &mut Node, updates: Vec<PolicyUpdate>) {
    for result in node.datapath.apply_policies(&updates) {
        result.unwrap();
    }
}

/// What the kernel charges for the maps that this process has open.
fn map_bytes() -> u64 {
    let files = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
    let memory = |text: String| {
        let line =
            text.lines().find_map(|line| line.strip_prefix("memlock:").map(str::trim).map(str::to_owned))?;
        line.parse::<u64>().ok()
    };
    texts.filter_map(memory).sum()
}
