//! The programs and the policy engine give one answer: any entries, any packet.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestRunner};
use specola_datapath::abi::{
    endpoint::policy_flags,
    metrics::drop,
    names::FROM_CONTAINER,
    policy::{FULL_PREFIX_STATIC, PolicyValue, VALUE_DENY, VALUE_PLEN_SHIFT},
    proto,
};
use specola_policy::{Entry, Key, MapState, OriginSet};
use specola_testkit::packet::Frame;

use crate::harness::{A, B, CIDR, DEFAULT_EGRESS, Kernel, REMOTE, WORLD, from_pod};

/// Peers, by address and identity.
const PEERS: [(&str, u32); 4] = [(REMOTE.0, REMOTE.2), CIDR, WORLD, (B.v4, B.identity)];

/// A packet from pod A: index into [`PEERS`], protocol, destination port or ICMP type.
type Probe = (usize, u8, u16);

fn ports() -> impl Strategy<Value = u16> {
    // Few distinct ports and their neighbours, so that entries and packets meet.
    prop_oneof![Just(80), Just(81), Just(443), 0..32_u16, Just(65_535), any::<u16>()]
}

fn entries() -> impl Strategy<Value = MapState> {
    let identities = prop::sample::select(vec![0, REMOTE.2, CIDR.1, WORLD.1, B.identity]);
    let protocols = prop::sample::select(vec![0, proto::TCP, proto::UDP, proto::ICMP, proto::SCTP]);
    let precedence = prop::sample::select(vec![1, 0xffff_ff01, 0xffff_ff02, 0xffff_fffe]);
    let entry = (identities, any::<bool>(), protocols, ports(), 0..=16_u8, any::<bool>(), precedence)
        .prop_map(|(identity, egress, proto, port, bits, deny, precedence)| {
            let port_bits = if proto == 0 { 0 } else { bits };
            let mask = u16::MAX.checked_shl(16 - u32::from(port_bits)).unwrap_or(0);
            let key = Key { identity, egress, proto, port: port & mask, port_bits };
            let precedence = if deny { u32::MAX } else { precedence };
            (
                key,
                Entry {
                    deny,
                    audit: false,
                    redirect: false,
                    by_default: false,
                    auth: 0,
                    precedence,
                    origins: OriginSet::default(),
                },
            )
        });
    prop::collection::vec(entry, 0..40).prop_map(MapState::from_entries)
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let protocols = prop::sample::select(vec![proto::TCP, proto::UDP, proto::ICMP, proto::SCTP]);
    prop::collection::vec((0..PEERS.len(), protocols, ports()), 1..30)
}

fn frame((peer, protocol, port): Probe, unique: u16) -> Frame {
    let base = Frame::v4(A.v4, PEERS[peer].0);
    let [high, low] = port.to_be_bytes();
    match protocol {
        proto::TCP => base.tcp(unique, port, 2),
        proto::UDP => base.udp(unique, port),
        // Not tracked and no error about anything: the type is the port.
        proto::ICMP => base.icmp(low, 0, unique),
        _ => base.raw(proto::SCTP, &[unique.to_be_bytes(), [high, low], [0; 2], [0; 2]].concat()),
    }
}

/// Writes the entries; gives back the cookie of each, which says which one decided.
fn write(kernel: &mut Kernel, map: &MapState) -> BTreeMap<Key, u32> {
    kernel.clear_entries(A);
    map.iter()
        .zip(1000_u32..)
        .map(|((key, entry), cookie)| {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&key.identity.to_ne_bytes());
            (data[4], data[5]) = (key.egress.into(), key.proto);
            data[6..].copy_from_slice(&key.port.to_be_bytes());
            let deny_plen = if entry.deny { VALUE_DENY } else { 0 } | key.l4_prefix() << VALUE_PLEN_SHIFT;
            let precedence = entry.precedence;
            let value = PolicyValue { proxy_port_be: 0, deny_plen, auth: 0, precedence, cookie };
            kernel.write_entry(A, FULL_PREFIX_STATIC + u32::from(key.l4_prefix()), data, value);
            (*key, cookie)
        })
        .collect()
}

#[test]
fn the_kernel_finds_what_the_policy_engine_finds() {
    let kernel = RefCell::new(Kernel::new());
    kernel.borrow_mut().endpoint(B, policy_flags::READY, 1);
    let unique = RefCell::new(0_u16);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() });
    runner
        .run(&(entries(), probes()), |(map, probes)| {
            let mut kernel = kernel.borrow_mut();
            let cookies = write(&mut kernel, &map);
            for probe in probes {
                // A connection of its own for each packet, so that no verdict is cached.
                *unique.borrow_mut() += 1;
                let frame = frame(probe, *unique.borrow());
                let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, frame));
                let (peer, protocol, port) = probe;
                let port = if protocol == proto::ICMP { port & 0xff } else { port };
                let wanted = match map.lookup(PEERS[peer].1, true, protocol, port) {
                    Some((key, entry)) if entry.deny => (-i32::from(drop::POLICY_DENY), cookies[key]),
                    Some((key, _)) => (0, cookies[key]),
                    None => (-i32::from(drop::POLICY_DENIED), DEFAULT_EGRESS),
                };
                let verdict = run.events[0];
                prop_assert_eq!((verdict.verdict, verdict.cookie), wanted, "{:?}: {:?}", probe, run);
            }
            Ok(())
        })
        .unwrap();
}
