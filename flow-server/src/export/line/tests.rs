//! The lines are those of the converted message, for any record and any mask.

use proptest::{prelude::*, sample::subsequence};
use specola_flow::{FlowMask, InstanceId, MetaHandle, MetaInterner, Metas, NodeInfo, Workload, flow_message};
use specola_proto::observer::{ExportEvent, export_event::ResponseTypes};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;

#[derive(Debug)]
struct World {
    metas: Metas,
    handles: Vec<MetaHandle>,
    origins: Vec<PolicyOrigin>,
    node: NodeInfo,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9-]{0,12}", 1 => "\\PC{0,20}", 1 => "[\\x00-\\x7f]{0,20}"]
}

fn meta() -> impl Strategy<Value = EndpointMeta> {
    let workload = (text(), text()).prop_map(|(name, kind)| Workload { name, kind });
    let labels = proptest::collection::vec(("[a-z]{1,9}", "[a-z0-9.]{0,9}"), 0..4);
    let workloads = proptest::collection::vec(workload, 0..3);
    (text(), text(), labels, workloads, text()).prop_map(
        |(namespace, pod_name, labels, workloads, cluster_name)| EndpointMeta {
            namespace,
            pod_name,
            labels: labels.iter().map(|(key, value)| specola_labels::Label::k8s(key, value)).collect(),
            workloads,
            cluster_name,
            ..EndpointMeta::default()
        },
    )
}

fn origin() -> impl Strategy<Value = PolicyOrigin> {
    let labels = proptest::collection::vec(text(), 0..3);
    let kind = prop_oneof![Just("NetworkPolicy".to_owned()), text()];
    (kind, "[ab]?", "[ab]", labels, 0..3_u64, "(|log|other)").prop_map(
        |(kind, namespace, name, labels, revision, log)| PolicyOrigin {
            kind,
            namespace,
            name,
            labels,
            revision,
            log,
            ..PolicyOrigin::default()
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    let metas = proptest::collection::vec(meta(), 0..3);
    let origins = proptest::collection::vec(origin(), 0..4);
    let node = (text(), text(), proptest::collection::vec(text(), 0..3));
    (metas, origins, node).prop_map(|(metas, origins, (name, cluster_name, labels))| {
        let mut interner = MetaInterner::new();
        let handles = metas.into_iter().map(|meta| interner.intern(meta).unwrap()).collect();
        World {
            metas: interner.table().load(),
            handles,
            origins,
            node: NodeInfo { name, cluster_name, labels },
        }
    })
}

/// Any bit pattern is a record; most have sensible kinds and zeros.
fn flow() -> impl Strategy<Value = Flow> {
    let bytes = proptest::collection::vec(any::<u8>(), size_of::<Flow>());
    let keep = proptest::collection::vec(any::<bool>(), size_of::<Flow>() / 2);
    let event = prop_oneof![8 => prop_oneof![Just(1), Just(4), Just(5)], 1 => any::<u8>()];
    let version = prop_oneof![6 => Just(4), 3 => Just(6), 1 => any::<u8>()];
    let protocol =
        prop_oneof![8 => prop_oneof![Just(6), Just(17), Just(132), Just(1), Just(58)], 1 => any::<u8>()];
    let digits = prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(1_000_000_000)];
    (bytes, keep, (event, version, protocol, 0..6_u8, 0..4_u8, digits)).prop_map(|(bytes, keep, kinds)| {
        let mut flow = Flow::read_from_bytes(&bytes).unwrap();
        for (pair, keep) in flow.as_mut_bytes().chunks_mut(2).zip(keep) {
            if !keep {
                pair.zero();
            }
        }
        let digits: u64;
        (flow.event_type, flow.ip_version, flow.protocol, flow.verdict, flow.direction, digits) = kinds;
        flow.time_ns -= flow.time_ns % digits;
        flow
    })
}

/// Paths that the writer can do, and some that no record has.
fn paths() -> impl Strategy<Value = Vec<String>> {
    let parts = ["source", "destination"]
        .into_iter()
        .flat_map(|side| ENDPOINT_FIELDS.iter().map(move |field| format!("{side}.{field}")));
    let whole = FIELDS.iter().copied().chain(["l7", "socket_cookie", "source_names"]).map(str::to_owned);
    let all: Vec<String> = whole.chain(parts).collect();
    let count = all.len();
    prop_oneof![1 => Just(Vec::new()), 3 => subsequence(all, 0..count)]
}

proptest! {
    #[test]
    fn lines_are_those_of_the_message(
        world in world(),
        mut flow in flow(),
        paths in paths(),
        interface in proptest::option::of(text()),
        seq: u64,
    ) {
        let handle = |index: usize| world.handles.get(index).copied().unwrap_or_default();
        (flow.source_meta, flow.destination_meta) = (handle(0), handle(1));
        let view = FlowView::new(&flow, seq, InstanceId::new(7), &world.metas, &world.node);
        let node_name = world.node.absolute_name();
        let context = MessageContext {
            version: "1.2",
            node_name: &node_name,
            origins: &world.origins,
            interface: interface.as_deref(),
            extension: false,
        };
        let mut message = flow_message(&view, &context);
        if let Some(mask) = FlowMask::compile(&paths).unwrap() {
            message = mask.apply(&message).unwrap();
        }
        let event = ExportEvent {
            time: message.time,
            node_name: message.node_name.clone(),
            response_types: Some(ResponseTypes::Flow(message)),
        };
        let mut writer = LineWriter::new(&paths).unwrap();
        let mut line = b"before".to_vec();
        prop_assert!(writer.write(&view, &context, &mut line));
        let line = String::from_utf8(line).unwrap();
        prop_assert_eq!(line, format!("before{}\n", serde_json::to_string(&event).unwrap()));
    }
}

#[test]
fn parts_of_other_messages_need_the_message() {
    for path in ["IP.source", "l4.TCP.flags", "source.workloads.name", "l7.http"] {
        assert!(LineWriter::new(&[path.to_owned()]).is_none(), "{path}");
    }
}
