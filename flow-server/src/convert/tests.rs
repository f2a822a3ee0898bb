use specola_datapath_common::{direction, event::tcp_flags, proto, v4_mapped};
use specola_directory::{Change, DirectoryReader, directory};
use specola_flow::{EndpointMeta, MatchType, NodeInfo, ObservationPoint};
use specola_labels::NumericIdentity;

use super::*;

const WEB: [u8; 16] = v4_mapped([10, 0, 0, 1]);
const DB: [u8; 16] = v4_mapped([10, 0, 0, 2]);
const FAR: [u8; 16] = v4_mapped([192, 0, 2, 1]);

/// A node with the endpoints web (id 7, identity 300) and db (id 8, identity 301).
fn node() -> DirectoryReader {
    let (mut writer, reader) = directory(NodeInfo::default());
    for (id, identity, name, address) in [(7, 300, "web", "10.0.0.1"), (8, 301, "db", "10.0.0.2")] {
        let meta = EndpointMeta {
            id,
            identity: NumericIdentity(identity),
            namespace: "shop".into(),
            pod_name: name.into(),
            ..EndpointMeta::default()
        };
        writer.apply([Change::UpsertEndpoint { meta, addresses: vec![address.parse().unwrap()] }]).unwrap();
    }
    reader
}

fn event(kind: u8) -> Event {
    Event {
        kind,
        boot_ns: 1_000,
        ip_version: 4,
        proto: proto::TCP,
        src_addr: WEB,
        dst_addr: DB,
        src_identity: 300,
        dst_identity: 301,
        src_port: 40_000,
        dst_port: 5432,
        tcp_flags: tcp_flags::SYN,
        endpoint_id: 8,
        ct_state: ct_state::NEW,
        ..Event::zeroed()
    }
}

fn flows(event: &Event) -> Flows {
    convert(event, 5_000, &node().load()).unwrap()
}

#[test]
fn traces_state_point_reason_reply_and_direction() {
    // endpoint id, source, ct state -> reason, reply, direction
    for (endpoint_id, (source, destination), state, reason, reply, expected) in [
        (8, (WEB, DB), ct_state::NEW, TraceReason::NEW, Some(false), Direction::INGRESS),
        (7, (WEB, DB), ct_state::ESTABLISHED, TraceReason::ESTABLISHED, Some(false), Direction::EGRESS),
        (7, (DB, WEB), ct_state::REPLY, TraceReason::REPLY, Some(true), Direction::EGRESS),
        (8, (DB, WEB), ct_state::REPLY, TraceReason::REPLY, Some(true), Direction::INGRESS),
        (8, (WEB, DB), ct_state::RELATED, TraceReason::RELATED, Some(false), Direction::INGRESS),
        (8, (WEB, DB), ct_state::REOPENED, TraceReason::REOPENED, Some(false), Direction::INGRESS),
        (8, (WEB, DB), ct_state::UNKNOWN, TraceReason::UNKNOWN, None, Direction::UNKNOWN),
        (0, (WEB, DB), ct_state::NEW, TraceReason::NEW, Some(false), Direction::UNKNOWN),
        (8, (WEB, DB), 200, TraceReason(200), None, Direction::UNKNOWN),
    ] {
        let event = Event {
            endpoint_id,
            src_addr: source,
            dst_addr: destination,
            ct_state: state,
            obs_point: point::TO_ENDPOINT,
            ..event(kind::TRACE)
        };
        let Flows { first, drop } = flows(&event);
        assert_eq!(drop, None);
        assert_eq!(first.verdict(), Verdict::FORWARDED);
        assert_eq!(first.observation_point(), Some(ObservationPoint::TO_ENDPOINT));
        assert_eq!(
            (first.trace_reason(), first.is_reply(), first.direction()),
            (reason, reply, expected),
            "{state}"
        );
    }
}

#[test]
fn a_close_found_by_the_agent_has_the_direction_of_its_side() {
    for (way, addresses, expected) in [
        (direction::INGRESS, (WEB, DB), Direction::INGRESS),
        (direction::EGRESS, (WEB, FAR), Direction::EGRESS),
        (direction::INGRESS, (FAR, DB), Direction::INGRESS),
        (direction::INGRESS, (WEB, FAR), Direction::UNKNOWN),
    ] {
        let event = Event {
            endpoint_id: 0,
            flags: event_flags::BY_AGENT | event_flags::CLOSE,
            direction: way,
            src_addr: addresses.0,
            dst_addr: addresses.1,
            ct_state: ct_state::ESTABLISHED,
            ..event(kind::TRACE)
        };
        assert_eq!(flows(&event).first.direction(), expected, "{way} {addresses:?}");
    }
}

#[test]
fn every_field_of_a_trace_arrives() {
    let event = Event {
        flags: event_flags::COUNTERS | event_flags::CLOSE | event_flags::MID_STREAM,
        created_ns: 400,
        packets_fwd: 1,
        packets_rev: 2,
        bytes_fwd: 3,
        bytes_rev: 4,
        ifindex: 5,
        length: 60,
        cpu: 1,
        revision: 9,
        src_mac: [1; 6],
        dst_mac: [2; 6],
        obs_point: point::TO_STACK,
        ..event(kind::TRACE)
    };
    let flow = flows(&event).first;
    assert_eq!((flow.time_ns, flow.duration_ns), (6_000, 600));
    assert_eq!((flow.packets_forward, flow.packets_reverse), (1, 2));
    assert_eq!((flow.bytes_forward, flow.bytes_reverse), (3, 4));
    assert_eq!((flow.ifindex, flow.length, flow.cpu, flow.revision), (5, 60, 1, 9));
    assert_eq!((flow.source_mac, flow.destination_mac), ([1; 6], [2; 6]));
    assert_eq!((flow.source_port, flow.destination_port), (40_000, 5432));
    assert_eq!((flow.source_identity, flow.destination_identity), (300, 301));
    assert_eq!((flow.source_endpoint, flow.destination_endpoint), (7, 8));
    assert_eq!(flow.sub_type, point::TO_STACK);
    assert!(flow.has(flags::COUNTERS | flags::CLOSED | flags::MID_STREAM));
    assert!(!flow.has(flags::ATTRIBUTED));
}

#[test]
fn counters_count_only_when_flagged() {
    let flow = flows(&Event { packets_fwd: 7, bytes_rev: 8, created_ns: 1, ..event(kind::TRACE) }).first;
    assert_eq!((flow.packets_forward, flow.bytes_reverse, flow.duration_ns), (0, 0, 0));
}

#[test]
fn policy_verdicts() {
    for (verdict, event_flag, expected, reply) in [
        (0, 0, Verdict::FORWARDED, Some(false)),
        (0, event_flags::AUDIT, Verdict::AUDIT, Some(false)),
        (-133, event_flags::AUDIT, Verdict::AUDIT, Some(false)),
        (12_345, 0, Verdict::REDIRECTED, Some(false)),
        (-133, 0, Verdict::DROPPED, None),
    ] {
        let event = Event {
            verdict,
            flags: event_flag,
            match_type: match_type::L3_L4,
            direction: direction::INGRESS,
            ..event(kind::POLICY_VERDICT)
        };
        let flow = flows(&event).first;
        assert_eq!((flow.verdict(), flow.is_reply()), (expected, reply), "{verdict}");
        assert_eq!((flow.event_type(), flow.sub_type), (EventType::POLICY_VERDICT, 0));
        assert_eq!((flow.match_type(), flow.direction()), (MatchType::L3_L4, Direction::INGRESS));
        assert!(flow.has(flags::ATTRIBUTED));
    }
}

#[test]
fn a_denied_packet_gives_a_verdict_and_a_drop() {
    for (reason, matched, is_default) in
        [(133, match_type::NONE, true), (133, match_type::L3_ONLY, false), (181, match_type::L3_L4, false)]
    {
        let event = Event {
            verdict: -reason,
            match_type: matched,
            cookie: 77,
            fold: 4,
            direction: direction::EGRESS,
            ..event(kind::POLICY_VERDICT)
        };
        let Flows { first, drop } = flows(&event);
        let drop = drop.unwrap();
        assert_eq!((first.event_type(), drop.event_type()), (EventType::POLICY_VERDICT, EventType::DROP));
        for flow in [first, drop] {
            assert_eq!(i32::from(flow.drop_reason().0), reason);
            assert_eq!((flow.verdict(), flow.is_reply()), (Verdict::DROPPED, None));
            assert_eq!((flow.cookie, flow.folded, flow.direction()), (77, 3, Direction::EGRESS));
            assert!(flow.has(flags::ATTRIBUTED));
            assert_eq!(flow.has(flags::DEFAULT_DENY), is_default);
        }
        assert_eq!((i32::from(drop.sub_type), drop.match_type()), (reason, MatchType::NONE));
    }
}

#[test]
fn an_audited_packet_says_whether_a_rule_or_none_would_drop_it() {
    for (matched, is_default) in [(match_type::NONE, true), (match_type::L3_ONLY, false)] {
        let audit = event_flags::AUDIT;
        let flow =
            flows(&Event { verdict: 0, match_type: matched, flags: audit, ..event(kind::POLICY_VERDICT) });
        assert_eq!((flow.first.verdict(), flow.drop), (Verdict::AUDIT, None));
        assert_eq!(flow.first.has(flags::DEFAULT_DENY), is_default);
    }
}

#[test]
fn drops_without_policy() {
    let flow = flows(&Event { verdict: -132, direction: direction::EGRESS, ..event(kind::DROP) });
    assert_eq!(flow.drop, None);
    assert_eq!((flow.first.drop_reason(), flow.first.sub_type), (DropReason::INVALID_SOURCE_IP, 132));
    assert!(!flow.first.has(flags::ATTRIBUTED));
}

#[test]
fn sides_without_identity_or_entry() {
    let from_far =
        flows(&Event { src_addr: FAR, src_identity: 2, dst_identity: 0, ..event(kind::TRACE) }).first;
    assert_eq!((from_far.source_identity, from_far.source_endpoint), (2, 0));
    assert_eq!((from_far.destination_identity, from_far.destination_endpoint), (301, 8));
    let reader = node();
    let (snapshot, metas) = (reader.load(), reader.metas());
    let world =
        convert(&Event { src_addr: FAR, src_identity: 2, ..event(kind::TRACE) }, 0, &snapshot).unwrap();
    assert_eq!(metas.get(world.first.source_meta).unwrap().labels.to_strings(), ["reserved:world"]);
}

#[test]
fn bad_records_are_named() {
    for (event, expected) in [
        (event(99), BadRecord::Kind(99)),
        (event(0), BadRecord::Kind(0)),
        (Event { verdict: 0, ..event(kind::DROP) }, BadRecord::Verdict(0)),
        (Event { verdict: 5, ..event(kind::DROP) }, BadRecord::Verdict(5)),
        (Event { verdict: -256, ..event(kind::POLICY_VERDICT) }, BadRecord::Verdict(-256)),
        (Event { verdict: i32::MIN, ..event(kind::POLICY_VERDICT) }, BadRecord::Verdict(i32::MIN)),
    ] {
        assert_eq!(convert(&event, 0, &node().load()), Err(expected));
    }
}

#[test]
fn times_saturate() {
    for (boot_ns, offset, expected) in [(5, -10, 0), (u64::MAX, 1, u64::MAX), (5, 10, 15)] {
        let flow = convert(&Event { boot_ns, ..event(kind::TRACE) }, offset, &node().load()).unwrap().first;
        assert_eq!(flow.time_ns, expected);
    }
}
