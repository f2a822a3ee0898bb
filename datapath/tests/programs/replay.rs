//! The rules in user space (`specola_replay`) and the kernel programs write the same records of the same packets, and
//! remember the same of connections: any entries, any packets, right ones and broken ones, at three hooks.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestRunner};
use specola_datapath::abi::{
    conntrack::CtValue,
    endpoint::{EndpointRecord, PolicyState, policy_flags},
    event::Event,
    ipcache::{IpInfo, IpPrefixKey, ip_flags},
    names::{FROM_CONTAINER, FROM_NETDEV, TO_CONTAINER},
    policy::{PolicyKey, PolicyValue, VALUE_AUDIT, VALUE_BY_DEFAULT, VALUE_DENY, VALUE_PLEN_SHIFT},
    proto, v4_mapped,
};
use specola_replay::{Action, Config, Datapath, Endpoint, Packet, Policy};
use specola_testkit::packet::{self, Frame};

use crate::harness::{
    A, B, CIDR, DEFAULT_EGRESS, DEFAULT_INGRESS, Kernel, LocalPod, NODE, OK, REDIRECT, REMOTE, REVISION,
    SHOT, WORLD, from_pod, octets16,
};

/// No record is due for its age: a test run may take any time.
const INTERVAL_MS: u32 = 3_600_000;
/// Test runs happen on the loopback interface.
const LOOPBACK: u32 = 1;

/// What one of the two pods has.
#[derive(Clone, Debug)]
struct Rules {
    flags: u32,
    entries: Vec<(PolicyKey, PolicyValue)>,
}

/// A packet and where it comes up.
#[derive(Clone, Debug)]
struct Step {
    hook: Hook,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Hook {
    FromA,
    FromB,
    ToA,
    ToB,
    Network,
}

fn entries() -> impl Strategy<Value = Vec<(PolicyKey, PolicyValue)>> {
    let peers = prop::sample::select(vec![0, 0, A.identity, B.identity, REMOTE.2, CIDR.1, WORLD.1, NODE.2]);
    let protocols =
        prop::sample::select(vec![0, proto::TCP, proto::UDP, proto::SCTP, proto::ICMP, proto::ICMPV6]);
    let values = (
        prop::sample::select(vec![
            0,
            0,
            0,
            VALUE_DENY,
            VALUE_DENY | VALUE_BY_DEFAULT,
            VALUE_DENY | VALUE_AUDIT,
        ]),
        prop::sample::select(vec![1, 0xffff_ff01, 0xffff_ff02, 0xffff_fffe]),
        prop::sample::select(vec![0, 0, 0, 0, 1_u8]),
        prop::sample::select(vec![0, 0, 0, 0, 9_u16]),
    );
    let entry = (peers, any::<bool>(), protocols, ports(), 0..=16_u8, values).prop_map(
        |(identity, egress, proto, port, bits, (bits_of_value, precedence, auth, proxy))| {
            let port_bits = if proto == 0 { 0 } else { bits };
            let l4_bits = if proto == 0 { 0 } else { 8 + port_bits };
            let mask = u16::MAX.checked_shl(16 - u32::from(port_bits)).unwrap_or(0);
            let key = PolicyKey {
                prefix_len: 40 + u32::from(l4_bits),
                identity,
                egress: egress.into(),
                proto,
                dport_be: (port & mask).to_be(),
            };
            let deny = bits_of_value & VALUE_DENY != 0;
            let value = PolicyValue {
                proxy_port_be: proxy.to_be(),
                deny_plen: bits_of_value | l4_bits << VALUE_PLEN_SHIFT,
                auth,
                precedence: if deny { u32::MAX } else { precedence },
                cookie: 0,
            };
            (key, value)
        },
    );
    prop::collection::vec(entry, 0..24).prop_map(|entries| {
        let unique: BTreeMap<_, _> = entries
            .into_iter()
            .map(|(key, value)| {
                ((key.prefix_len, key.identity, key.egress, key.proto, key.dport_be), (key, value))
            })
            .collect();
        unique
            .into_values()
            .zip(1000..)
            .map(|((key, value), cookie)| (key, PolicyValue { cookie, ..value }))
            .collect()
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    const READY: u32 = policy_flags::READY;
    let flags = prop::sample::select(vec![READY, READY, READY, READY | policy_flags::AUDIT, 0]);
    (flags, entries()).prop_map(|(flags, entries)| Rules { flags, entries })
}

/// Few, so that packets meet entries and connections.
fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(443), 40_000..40_002_u16, 0..4_u16]
}

fn tcp_flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(vec![0x02, 0x12, 0x10, 0x18, 0x11, 0x01, 0x04, 0x14]),
        1 => any::<u8>(),
    ]
}

/// Source and destination, mostly such as come up at the hook.
fn ends(v6: bool, hook: Hook) -> impl Strategy<Value = (&'static str, &'static str)> {
    let (a, b, remote, node) =
        if v6 { (A.v6, B.v6, REMOTE.1, NODE.1) } else { (A.v4, B.v4, REMOTE.0, NODE.0) };
    let odd =
        if v6 { ["2001:db8::7", "fe80::1", "ff02::1", "::"] } else { [CIDR.0, WORLD.0, CIDR.0, WORLD.0] };
    let any = prop::sample::select([&[a, b, remote, node][..], &odd].concat());
    let (local, far) = (vec![a, b], vec![remote, node, odd[0], odd[1]]);
    let (from, to) = match hook {
        Hook::FromA => (vec![a], [local, far].concat()),
        Hook::FromB => (vec![b], [local, far].concat()),
        Hook::ToA => (far, vec![a]),
        Hook::ToB => (far, vec![b]),
        Hook::Network => (far, local),
    };
    let usual = (prop::sample::select(from), prop::sample::select(to));
    prop_oneof![9 => usual, 1 => (any.clone(), any)]
}

fn payload(frame: Frame) -> BoxedStrategy<Frame> {
    let quote = frame.clone();
    let kinds =
        prop::sample::select(vec![0_u8, 3, 4, 8, 11, 12, 128, 129, 1, 2, 130, 133, 134, 135, 136, 137, 143]);
    prop_oneof![
        6 => (ports(), ports(), tcp_flags()).prop_map({ let frame = frame.clone(); move |(src, dst, flags)| frame.clone().tcp(src, dst, flags) }),
        3 => (ports(), ports()).prop_map({ let frame = frame.clone(); move |(src, dst)| frame.clone().udp(src, dst) }),
        2 => (kinds, 0..3_u8, 0..3_u16).prop_map({ let frame = frame.clone(); move |(kind, code, id)| frame.clone().icmp(kind, code, id) }),
        2 => (ports(), ports()).prop_map(move |(src, dst)| {
            // An error about a packet of the other way.
            let kind = if quote.clone().udp(0, 0).packet()[0] >> 4 == 4 { 3 } else { 1 };
            let back = quote.clone().swapped().tcp(src, dst, 0x02).packet();
            quote.clone().icmp(kind, 1, 0).data(&back)
        }),
        1 => (prop::sample::select(vec![proto::SCTP, 47, 2, 51, 44]), prop::collection::vec(any::<u8>(), 0..24))
            .prop_map(move |(proto, bytes)| frame.clone().raw(proto, &bytes)),
    ]
    .boxed()
}

fn shape(frame: Frame) -> BoxedStrategy<Frame> {
    let hops = prop::sample::select(vec![64_u8, 255, 1]);
    let fragment = prop_oneof![
        6 => Just(None),
        1 => (0..2_u16, prop::sample::select(vec![0_u16, 8]), any::<bool>()).prop_map(Some),
    ];
    let extension =
        prop_oneof![8 => Just(None), 1 => prop::sample::select(vec![0_u8, 43, 51, 60]).prop_map(Some)];
    (hops, fragment, extension)
        .prop_map(move |(hops, fragment, extension)| {
            let mut shaped = frame.clone().hop_limit(hops);
            if let Some((id, offset, more)) = fragment {
                shaped = shaped.fragment(id, offset, more);
            }
            if let Some(number) = extension {
                shaped = shaped.extension(number, &[1, 2, 0, 0]);
            }
            shaped
        })
        .boxed()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hooks = prop::sample::select(vec![
        Hook::FromA,
        Hook::FromA,
        Hook::FromB,
        Hook::FromB,
        Hook::ToA,
        Hook::ToB,
        Hook::Network,
        Hook::Network,
    ]);
    let frame = (any::<bool>(), hooks)
        .prop_flat_map(|(v6, hook)| {
            let frame = move |(src, dst)| if v6 { Frame::v6(src, dst) } else { Frame::v4(src, dst) };
            (Just(hook), ends(v6, hook).prop_map(frame))
        })
        .prop_flat_map(|(hook, frame)| (Just(hook), shape(frame).prop_flat_map(payload).boxed()))
        .boxed();
    let damage = prop_oneof![
        8 => Just(None),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some),
    ];
    let cut = prop_oneof![8 => Just(None), 1 => (34..90_usize).prop_map(Some)];
    let own_mac = prop::bool::weighted(0.97);
    let step = (frame, damage, cut, own_mac).prop_map(|((hook, frame), damage, cut, own_mac)| {
        let mut bytes = match hook {
            Hook::FromA if own_mac => from_pod(A, frame),
            Hook::FromB if own_mac => from_pod(B, frame),
            _ => frame.bytes(),
        };
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len() - 12) + 12;
            bytes[at] = byte;
        }
        if let Some(len) = cut {
            bytes.resize(len, 0);
        }
        // A test run takes no frame that ends in the network header.
        let least = if bytes[12..14] == [0x86, 0xdd] { 54 } else { 34 };
        bytes.resize(bytes.len().max(least), 0);
        Step { hook, frame: bytes }
    });
    let other = prop::sample::select(vec![0x0806_u16, 0x88cc]).prop_map(|ethertype| {
        let mut frame = packet::other(ethertype);
        frame[6..12].copy_from_slice(&A.mac);
        Step { hook: Hook::FromA, frame }
    });
    prop::collection::vec(prop_oneof![30 => step, 1 => other], 1..40)
}

fn in_user_space(rules: &[Rules; 2]) -> Datapath {
    let config = Config { trace_interval_ms: INTERVAL_MS, connections: 1024, ..Config::default() };
    let mut datapath = Datapath::new(config);
    for (pod, rules) in [A, B].into_iter().zip(rules) {
        let state = PolicyState {
            default_cookie_ingress: DEFAULT_INGRESS,
            default_cookie_egress: DEFAULT_EGRESS,
            revision: REVISION,
            flags: rules.flags,
        };
        let octets4 = |address: &str| <[u8; 4]>::try_from(&octets16(address)[12..]).unwrap();
        let record = EndpointRecord {
            word: EndpointRecord::word_of(0, 1),
            identity: pod.identity,
            id: pod.id,
            mac: pod.mac,
            ipv4: octets4(pod.v4),
            ipv6: octets16(pod.v6),
            ..EndpointRecord::default()
        };
        let policy = Policy::new(state, rules.entries.iter().copied());
        datapath.set_endpoint(pod.slot, Endpoint { record, policy });
        for address in [pod.v4, pod.v6] {
            let info = IpInfo { identity: pod.identity, slot: pod.slot, ..IpInfo::default() };
            datapath.set_address(whole(address), info);
        }
    }
    for (address, identity, flags) in [
        (REMOTE.0, REMOTE.2, 0),
        (REMOTE.1, REMOTE.2, 0),
        (NODE.0, NODE.2, ip_flags::LOCAL_NODE),
        (NODE.1, NODE.2, ip_flags::LOCAL_NODE),
    ] {
        datapath.set_address(whole(address), IpInfo { identity, flags, ..IpInfo::default() });
    }
    let prefix = IpPrefixKey { prefix_len: 120, addr: v4_mapped([203, 0, 113, 0]) };
    datapath.set_address(prefix, IpInfo { identity: CIDR.1, ..IpInfo::default() });
    datapath
}

fn whole(address: &str) -> IpPrefixKey {
    IpPrefixKey { prefix_len: 128, addr: octets16(address) }
}

fn in_kernel(kernel: &mut Kernel, rules: &[Rules; 2]) {
    kernel.forget();
    for (pod, rules) in [A, B].into_iter().zip(rules) {
        kernel.endpoint(pod, rules.flags, 1);
        kernel.clear_entries(pod);
        for (key, value) in &rules.entries {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&key.identity.to_ne_bytes());
            (data[4], data[5]) = (key.egress, key.proto);
            data[6..].copy_from_slice(&key.dport_be.to_ne_bytes());
            kernel.write_entry(pod, key.prefix_len, data, *value);
        }
    }
}

/// The record without what differs from machine to machine: clock, CPU, number in the lane.
fn comparable(event: &Event) -> Event {
    Event { boot_ns: 0, created_ns: 0, cpu: 0, lane_seq: 0, ..*event }
}

fn comparable_connection(value: &CtValue) -> CtValue {
    CtValue { created_ns: 0, last_seen_ns: 0, last_report: [0; 2], ..*value }
}

fn run_both(kernel: &mut Kernel, datapath: &mut Datapath, step: &Step) -> Result<(), TestCaseError> {
    let (program, pod): (&str, Option<LocalPod>) = match step.hook {
        Hook::FromA => (FROM_CONTAINER, Some(A)),
        Hook::FromB => (FROM_CONTAINER, Some(B)),
        Hook::ToA => (TO_CONTAINER, Some(A)),
        Hook::ToB => (TO_CONTAINER, Some(B)),
        Hook::Network => (FROM_NETDEV, None),
    };
    let run = kernel.run(program, pod, &step.frame);
    let frame = specola_replay::Frame::ethernet(&step.frame).expect("a whole header");
    let packet = Packet { frame, time_ns: 1_000_000_000, ifindex: LOOPBACK };
    let mut events = Vec::new();
    let action = match step.hook {
        Hook::FromA => datapath.leave_container(A.slot, &packet, &mut events),
        Hook::FromB => datapath.leave_container(B.slot, &packet, &mut events),
        Hook::ToA => datapath.enter_container(A.slot, &packet, &mut events),
        Hook::ToB => datapath.enter_container(B.slot, &packet, &mut events),
        Hook::Network => datapath.receive(&packet, &mut events),
    };
    let passed = run.action == OK || run.action == REDIRECT;
    prop_assert!(passed || run.action == SHOT);
    prop_assert_eq!(action == Action::Pass, passed, "{:?} {:?} {:?}", action, step, run);
    let kernels: Vec<_> = run.events.iter().map(comparable).collect();
    let ours: Vec<_> = events.iter().map(comparable).collect();
    prop_assert_eq!(ours, kernels, "{:?}", step);
    Ok(())
}

#[test]
fn user_space_says_what_the_kernel_says() {
    let kernel = RefCell::new(Kernel::with(INTERVAL_MS, 0));
    let records = RefCell::new(BTreeMap::<_, u64>::new());
    let cases = std::env::var("PROPTEST_CASES").map_or(1_000, |text| text.parse().expect("a number"));
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..Default::default() });
    runner
        .run(&([rules(), rules()], steps()), |(rules, steps)| {
            let kernel = &mut *kernel.borrow_mut();
            in_kernel(kernel, &rules);
            let mut datapath = in_user_space(&rules);
            for step in steps {
                run_both(kernel, &mut datapath, &step)?;
            }
            let sorted = |mut list: Vec<CtValue>| {
                list.sort_by_key(|value| format!("{value:?}"));
                list
            };
            let kernels = sorted(kernel.connections().iter().map(comparable_connection).collect());
            let ours = sorted(datapath.tracked().map(|(_, value)| comparable_connection(value)).collect());
            prop_assert_eq!(ours, kernels);
            for reason in 0..=u8::MAX {
                let count = (1..=2).map(|direction| datapath.counted(direction, reason).packets).sum::<u64>();
                if count > 0 {
                    *records.borrow_mut().entry(reason).or_default() += count;
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let seen = records.into_inner();
    eprintln!("packets by drop reason: {seen:?}");
    if cases >= 1_000 {
        // Packets that never meet anything would agree about nothing.
        for reason in [0, 130, 132, 133, 134, 135, 137, 139, 156, 175, 176, 180, 181, 189, 203] {
            assert!(seen.contains_key(&reason), "no packet with drop reason {reason}: {seen:?}");
        }
    }
}
