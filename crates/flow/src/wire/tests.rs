//! The bytes are those of the converted message, for any record.

use proptest::prelude::*;
use specola_labels::{Label, LabelSet, NumericIdentity};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;
use crate::{
    FlowDetail, FlowView, InstanceId, MessageContext, MetaHandle, MetaInterner, Metas, PolicyOrigin,
    Workload, flow_message,
};

/// Entries that records may point to, and rules.
#[derive(Debug)]
struct World {
    metas: Metas,
    handles: Vec<MetaHandle>,
    origins: Vec<PolicyOrigin>,
    node: NodeInfo,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9-]{0,12}", 1 => "\\PC{0,60}", 1 => "[a-z]{100,300}"]
}

fn meta() -> impl Strategy<Value = EndpointMeta> {
    let workload = (text(), text()).prop_map(|(name, kind)| Workload { name, kind });
    let labels = proptest::collection::vec(("[a-z]{1,9}", "[a-z0-9.]{0,9}"), 0..9);
    let workloads = proptest::collection::vec(workload, 0..3);
    (any::<u32>(), text(), text(), labels, workloads, text()).prop_map(
        |(identity, namespace, pod_name, labels, workloads, cluster_name)| EndpointMeta {
            identity: NumericIdentity(identity),
            namespace,
            pod_name,
            labels: labels.iter().map(|(key, value)| Label::k8s(key, value)).collect::<LabelSet>(),
            workloads,
            cluster_name,
            ..EndpointMeta::default()
        },
    )
}

fn origin() -> impl Strategy<Value = PolicyOrigin> {
    let names = (prop_oneof![Just("NetworkPolicy".to_owned()), text()], text(), "[ab]", text(), text());
    let rest = (any::<u32>(), proptest::collection::vec(text(), 0..3), any::<u64>(), "(|log|other)");
    (names, rest).prop_map(|((kind, namespace, name, uid, section), (rule_index, labels, revision, log))| {
        PolicyOrigin { kind, namespace, name, uid, section, rule_index, labels, revision, log }
    })
}

fn world() -> impl Strategy<Value = World> {
    let metas = proptest::collection::vec(meta(), 0..3);
    let origins = proptest::collection::vec(origin(), 0..4);
    let node = (text(), text(), proptest::collection::vec(text(), 0..3));
    (metas, origins, node).prop_map(|(metas, origins, (name, cluster_name, labels))| {
        let mut interner = MetaInterner::new();
        let handles = metas.into_iter().map(|meta| interner.intern(meta).unwrap()).collect();
        let node = NodeInfo { name, cluster_name, labels };
        World { metas: interner.table().load(), handles, origins, node }
    })
}

/// Any bit pattern is a record; most have sensible kinds and zeros, as real ones do.
fn flow() -> impl Strategy<Value = Flow> {
    let bytes = proptest::collection::vec(any::<u8>(), size_of::<Flow>());
    let words = proptest::collection::vec(any::<bool>(), size_of::<Flow>() / 2);
    let kinds = (
        prop_oneof![8 => prop_oneof![Just(1), Just(4), Just(5), Just(129)], 1 => any::<u8>()],
        prop_oneof![6 => Just(4), 3 => Just(6), 1 => any::<u8>()],
        prop_oneof![8 => prop_oneof![Just(6), Just(17), Just(132), Just(1), Just(58)], 1 => any::<u8>()],
        (0..6_u8, 0..4_u8),
        prop_oneof![Just([0; 10]), Just([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])],
        any::<bool>(),
    );
    (bytes, words, kinds).prop_map(|(bytes, keep, kinds)| {
        let mut flow = Flow::read_from_bytes(&bytes).unwrap();
        // Zeros are left out on the wire: every field must be seen with and without.
        for (pair, keep) in flow.as_mut_bytes().chunks_mut(2).zip(keep) {
            if !keep {
                pair.zero();
            }
        }
        let (event_type, ip_version, protocol, (verdict, direction), prefix, has_prefix) = kinds;
        if has_prefix {
            flow.source_addr[2..12].copy_from_slice(&prefix);
        }
        Flow { event_type, ip_version, protocol, verdict, direction, ..flow }
    })
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(text(), 0..3)
}

fn application() -> impl Strategy<Value = pb::Layer7> {
    use pb::layer7::Record;
    let header = (text(), text()).prop_map(|(key, value)| pb::HttpHeader { key, value });
    let headers = proptest::collection::vec(header, 0..4);
    let http =
        (0..600_u32, text(), text(), text(), headers).prop_map(|(code, method, url, protocol, headers)| {
            Record::Http(pb::Http { code, method, url, protocol, headers })
        });
    let dns = (text(), texts(), any::<u32>(), texts(), (0..8_u32, texts(), texts(), text())).prop_map(
        |(query, ips, ttl, cnames, (rcode, qtypes, rrtypes, observation_source))| {
            Record::Dns(pb::Dns { query, ips, ttl, cnames, observation_source, rcode, qtypes, rrtypes })
        },
    );
    let kafka = (any::<i32>(), any::<i32>(), text(), any::<i32>(), text()).prop_map(
        |(error_code, api_version, api_key, correlation_id, topic)| {
            Record::Kafka(pb::Kafka { error_code, api_version, api_key, correlation_id, topic })
        },
    );
    let record = proptest::option::weighted(0.9, prop_oneof![http.boxed(), dns.boxed(), kafka.boxed()]);
    (0..4_i32, any::<u64>(), record).prop_map(|(kind, latency_ns, record)| pb::Layer7 {
        r#type: kind,
        latency_ns,
        record,
    })
}

fn detail() -> impl Strategy<Value = FlowDetail> {
    let service = || {
        let service = (text(), text()).prop_map(|(name, namespace)| pb::Service { name, namespace });
        proptest::option::of(service)
    };
    let id = (any::<u64>(), any::<u32>());
    let id = id.prop_map(|(trace_id, ip_option_type)| pb::IpTraceId { trace_id, ip_option_type });
    let names = (texts(), texts(), service(), service(), text());
    let rest = (proptest::option::of(application().boxed()), any::<bool>(), text(), proptest::option::of(id));
    (names.boxed(), rest.boxed()).prop_map(
        |(
            (source_names, destination_names, source_service, destination_service, source_ip_xlated),
            (l7, encrypted, trace_id, ip_trace_id),
        )| FlowDetail {
            l7,
            source_names,
            destination_names,
            source_service,
            destination_service,
            source_ip_xlated,
            encrypted,
            trace_id,
            ip_trace_id,
        },
    )
}

/// Paths of fields that records fill, of some that they do not, and of parts at several depths.
const PATHS: [&str; 45] = [
    "time",
    "time.nanos",
    "uuid",
    "emitter.version",
    "verdict",
    "drop_reason",
    "drop_reason_desc",
    "auth_type",
    "ethernet.source",
    "IP",
    "IP.destination",
    "l4",
    "l4.TCP.flags.SYN",
    "l4.TCP.destination_port",
    "l4.UDP",
    "l4.ICMPv6.type",
    "source",
    "source.ID",
    "source.namespace",
    "source.pod_name",
    "destination.labels",
    "destination.identity",
    "destination.workloads",
    "destination.cluster_name",
    "node_name",
    "node_labels",
    "l7",
    "l7.type",
    "l7.http.headers",
    "l7.dns.query",
    "source_names",
    "destination_names",
    "source_service.name",
    "destination_service",
    "trace_context.parent",
    "ip_trace_id.trace_id",
    "Type",
    "IP.source_xlated",
    "tunnel.IP.source",
    "event_type.sub_type",
    "is_reply",
    "interface.name",
    "Summary",
    "egress_denied_by",
    "extensions.type_url",
];

#[derive(Debug)]
struct Case {
    world: World,
    flow: Flow,
    seq: u64,
    interface: Option<String>,
    extension: bool,
    detail: Option<FlowDetail>,
    paths: Vec<String>,
}

prop_compose! {
    fn case()(
        world in world().boxed(),
        mut flow in flow().boxed(),
        seq: u64,
        interface in proptest::option::of(text()),
        extension: bool,
        detail in proptest::option::of(detail().boxed()).boxed(),
        ends: [proptest::sample::Index; 2],
        paths in proptest::sample::subsequence(PATHS.to_vec(), 0..12),
    ) -> Case {
        let entries: Vec<_> = [MetaHandle::NONE].into_iter().chain(world.handles.iter().copied()).collect();
        [flow.source_meta, flow.destination_meta] = ends.map(|index| *index.get(&entries));
        let paths = paths.into_iter().map(ToOwned::to_owned).collect();
        Case { world, flow, seq, interface, extension, detail, paths }
    }
}

/// What the converted message encodes to.
fn reference(case: &Case, mask: Option<&FlowMask>) -> pb::Flow {
    let World { metas, origins, node, .. } = &case.world;
    let node_name = node.absolute_name();
    let context = MessageContext {
        version: "1.2.3",
        node_name: &node_name,
        origins,
        interface: case.interface.as_deref(),
        extension: case.extension,
    };
    let mut view = FlowView::new(&case.flow, case.seq, INSTANCE, metas, node);
    view.detail = case.detail.as_ref();
    let message = flow_message(&view, &context);
    mask.map_or(message.clone(), |mask| mask.apply(&message).unwrap())
}

fn written(case: &Case, mask: Option<FlowMask>) -> Vec<u8> {
    let World { metas, origins, node, .. } = &case.world;
    let origins = WireOrigins::new(origins);
    let detail = case.detail.as_ref().map(WireDetail::new);
    let wire = WireFlow {
        flow: &case.flow,
        uuid: FlowUuid { instance: INSTANCE, seq: case.seq },
        source: metas.wire(case.flow.source_meta),
        destination: metas.wire(case.flow.destination_meta),
        origins: Some(&origins),
        interface: case.interface.as_deref(),
        detail: detail.as_ref(),
    };
    let mut out = b"before".to_vec();
    FlowEncoder::new("1.2.3", node, mask, case.extension).encode(&wire, &mut out).unwrap();
    out.split_off(6)
}

const INSTANCE: InstanceId = InstanceId::new(0x1_2345_6789);

proptest! {
    #[test]
    fn bytes_are_those_of_the_message(case in case()) {
        let expected = reference(&case, None);
        let written = written(&case, None);
        prop_assert_eq!(pb::Flow::decode(written.as_slice()).unwrap(), expected.clone());
        prop_assert_eq!(written, expected.encode_to_vec());
    }

    #[test]
    fn masked_bytes_are_those_of_the_masked_message(case in case()) {
        let mask = FlowMask::compile(&case.paths).unwrap();
        let expected = reference(&case, mask.as_ref());
        let written = written(&case, mask);
        prop_assert_eq!(pb::Flow::decode(written.as_slice()).unwrap(), expected.clone());
        prop_assert_eq!(written, expected.encode_to_vec());
    }
}
