//! The fields of the message, each with its key, in the order of their numbers.

use std::{fmt, io::Write as _, sync::LazyLock};

use specola_proto::{flow as pb, specola::v1 as ext};

use super::{
    Constants, WireDetail, WireFlow,
    put::{BYTES, bytes, key, message, number, string, varint, varint_len, with_length},
    text,
};
use crate::{Direction, EventType, Flow, Summary, Verdict, flags, message::kind, protocol};

/// What the fields are made of.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) wire: &'a WireFlow<'a>,
    pub(super) constants: &'a Constants,
}

/// Declares the order of fields once, for the whole message and for single fields.
macro_rules! fields {
    ($($number:literal => $write:expr,)*) => {
        /// Appends all fields.
        pub(super) fn write_all(input: &Input<'_>, out: &mut Vec<u8>) {
            let flow = input.wire.flow;
            $({
                let write: fn(&Input<'_>, &Flow, &mut Vec<u8>) = $write;
                write(input, flow, out);
            })*
        }

        /// Appends one field; nothing when flows never have it.
        pub(super) fn write_field(wanted: u32, input: &Input<'_>, out: &mut Vec<u8>) {
            let flow = input.wire.flow;
            match wanted {
                $($number => {
                    let write: fn(&Input<'_>, &Flow, &mut Vec<u8>) = $write;
                    write(input, flow, out);
                })*
                _ => {}
            }
        }
    };
}

fields! {
    1 => |_, flow, out| time(flow.time_ns, out),
    2 => |_, flow, out| number::<2>(out, flow.verdict.into()),
    3 => |_, flow, out| number::<3>(out, drop_reason(flow)),
    4 => |_, flow, out| ethernet(flow, out),
    5 => |input, flow, out| ip(input, flow, out),
    6 => |_, flow, out| layer4(flow, out),
    8 => |input, flow, out| endpoint::<8>(flow.source_endpoint, flow.source_identity, input.wire.source, out),
    9 => |input, flow, out| {
        endpoint::<9>(flow.destination_endpoint, flow.destination_identity, input.wire.destination, out);
    },
    10 => |input, flow, out| {
        let is_l7 = input.wire.detail.is_some_and(|detail| detail.summary.is_some());
        number::<10>(out, if is_l7 { pb::FlowType::L7 } else { kind(flow) } as u64);
    },
    11 => |input, _, out| out.extend_from_slice(&input.constants.node_name),
    13 => |input, _, out| detail(input, out, |detail| &detail.source_names),
    14 => |input, _, out| detail(input, out, |detail| &detail.destination_names),
    15 => |input, _, out| detail(input, out, |detail| &detail.l7),
    16 => |_, flow, out| number::<16>(out, flow.has(flags::REPLY_KNOWN | flags::REPLY).into()),
    19 => |_, flow, out| message::<19>(out, |out| {
        number::<1>(out, flow.event_type.into());
        number::<2>(out, flow.sub_type.into());
    }),
    20 => |input, _, out| detail(input, out, |detail| &detail.source_service),
    21 => |input, _, out| detail(input, out, |detail| &detail.destination_service),
    22 => |_, flow, out| number::<22>(out, flow.direction.into()),
    23 => |_, flow, out| {
        if flow.event_type() == EventType::POLICY_VERDICT {
            number::<23>(out, flow.match_type.into());
        }
    },
    24 => |_, flow, out| {
        if let Some(point) = flow.observation_point() {
            number::<24>(out, u64::from(point.api_number().unsigned_abs()));
        }
    },
    25 => |_, flow, out| number::<25>(out, drop_reason(flow)),
    26 => |_, flow, out| {
        if let Some(is_reply) = flow.is_reply() {
            message::<26>(out, |out| number::<1>(out, is_reply.into()));
        }
    },
    28 => |input, flow, out| interface(input, flow, out),
    29 => |_, flow, out| {
        if is_trace(flow) {
            number::<29>(out, flow.proxy_port.into());
        }
    },
    30 => |input, _, out| detail(input, out, |detail| &detail.trace_context),
    34 => |input, _, out| bytes::<34>(out, &text::uuid(input.wire.uuid)),
    36 => |_, flow, out| {
        if is_trace(flow) {
            number::<36>(out, flow.trace_reason.into());
        }
    },
    37 => |input, _, out| out.extend_from_slice(&input.constants.node_labels),
    40 => |input, _, out| detail(input, out, |detail| &detail.ip_trace_id),
    41 => |input, _, out| out.extend_from_slice(&input.constants.emitter),
    21001 => |input, flow, out| policies::<21001>(input, flow, (Direction::EGRESS, false), out),
    21002 => |input, flow, out| policies::<21002>(input, flow, (Direction::INGRESS, false), out),
    21004 => |input, flow, out| policies::<21004>(input, flow, (Direction::EGRESS, true), out),
    21005 => |input, flow, out| policies::<21005>(input, flow, (Direction::INGRESS, true), out),
    21006 => |input, flow, out| logs(input, flow, out),
    100_000 => |input, flow, out| summary(input, flow, out),
    150_000 => |input, flow, out| {
        if input.constants.extension {
            extension(input, flow, out);
        }
    },
}

/// Appends a field of the details, if there are some.
#[inline]
fn detail(input: &Input<'_>, out: &mut Vec<u8>, field: fn(&WireDetail) -> &[u8]) {
    if let Some(detail) = input.wire.detail {
        out.extend_from_slice(field(detail));
    }
}

fn is_trace(flow: &Flow) -> bool {
    flow.event_type() == EventType::TRACE
}

/// Appends field 1 of a flow.
#[inline]
fn time(time_ns: u64, out: &mut Vec<u8>) {
    key::<1, BYTES>(out);
    timestamp(out, time_ns);
}

/// Appends a timestamp with its length in front.
#[inline]
pub(crate) fn timestamp(out: &mut Vec<u8>, time_ns: u64) {
    // The largest time of `google.protobuf.Timestamp::from_unix_nanos`.
    let time_ns = time_ns.min(i64::MAX.unsigned_abs());
    with_length(out, |out| {
        number::<1>(out, time_ns / 1_000_000_000);
        number::<2>(out, time_ns % 1_000_000_000);
    });
}

fn drop_reason(flow: &Flow) -> u64 {
    if flow.verdict() == Verdict::DROPPED { flow.drop_reason.into() } else { 0 }
}

#[inline]
fn ethernet(flow: &Flow, out: &mut Vec<u8>) {
    if flow.source_mac == [0; 6] && flow.destination_mac == [0; 6] {
        return;
    }
    // Keys and lengths of the message and its two texts of 17 bytes.
    let mut field = *b"\x22\x26\x0a\x11_________________\x12\x11_________________";
    field[4..21].copy_from_slice(&text::mac(flow.source_mac));
    field[23..].copy_from_slice(&text::mac(flow.destination_mac));
    out.extend_from_slice(&field);
}

#[inline]
fn ip(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    let (Some(source), Some(destination)) = (flow.source_ip(), flow.destination_ip()) else {
        return;
    };
    let version = if source.is_ipv4() { pb::IpVersion::IPv4 } else { pb::IpVersion::IPv6 };
    message::<5>(out, |out| {
        message::<1>(out, |out| text::ip(out, source));
        message::<2>(out, |out| text::ip(out, destination));
        number::<3>(out, version as u64);
        if let Some(detail) = input.wire.detail {
            number::<4>(out, detail.encrypted.into());
            string::<5>(out, detail.source_ip_xlated.as_bytes());
        }
    });
}

#[inline]
fn layer4(flow: &Flow, out: &mut Vec<u8>) {
    if !matches!(flow.ip_version, 4 | 6) {
        return;
    }
    let ports = |out: &mut Vec<u8>| {
        number::<1>(out, flow.source_port.into());
        number::<2>(out, flow.destination_port.into());
    };
    let icmp = |out: &mut Vec<u8>| {
        number::<1>(out, flow.icmp_type.into());
        number::<2>(out, flow.icmp_code.into());
    };
    match flow.protocol {
        protocol::TCP => message::<6>(out, |out| {
            message::<1>(out, |out| {
                ports(out);
                // What an application said has ports, but no flags.
                if flow.event_type() != EventType::L7 {
                    message::<3>(out, |out| tcp_flags(flow.tcp_flags, out));
                }
            });
        }),
        protocol::UDP => message::<6>(out, |out| message::<2>(out, ports)),
        protocol::ICMP => message::<6>(out, |out| message::<3>(out, icmp)),
        protocol::ICMPV6 => message::<6>(out, |out| message::<4>(out, icmp)),
        protocol::SCTP => message::<6>(out, |out| message::<5>(out, ports)),
        _ => {}
    }
}

/// The message has the flags in the order of the header's bits, from the lowest.
#[inline]
fn tcp_flags(set: u8, out: &mut Vec<u8>) {
    let mut rest = set;
    while rest != 0 {
        let bit = rest.trailing_zeros() as u8;
        out.extend_from_slice(&[(bit + 1) << 3, 1]);
        rest &= rest - 1;
    }
}

#[inline]
fn endpoint<const N: u32>(id: u16, identity: u32, tail: &[u8], out: &mut Vec<u8>) {
    let size = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
    key::<N, BYTES>(out);
    varint(out, (size(id.into()) + size(identity.into()) + tail.len()) as u64);
    number::<1>(out, id.into());
    number::<2>(out, identity.into());
    out.extend_from_slice(tail);
}

fn interface(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    if !is_trace(flow) || flow.ifindex == 0 {
        return;
    }
    message::<28>(out, |out| {
        number::<1>(out, flow.ifindex.into());
        string::<2>(out, input.wire.interface.unwrap_or_default().as_bytes());
    });
}

/// Appends the policies if they belong into the list of this direction and verdict.
#[inline]
fn policies<const N: u32>(input: &Input<'_>, flow: &Flow, list: (Direction, bool), out: &mut Vec<u8>) {
    if let Some(origins) = input.wire.origins
        && flow.has(flags::ATTRIBUTED)
        && (flow.direction(), is_denied(flow)) == list
    {
        origins.write_policies::<N>(out);
    }
}

fn is_denied(flow: &Flow) -> bool {
    matches!(flow.verdict(), Verdict::DROPPED | Verdict::AUDIT)
}

fn logs(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    let has_list = matches!(flow.direction(), Direction::EGRESS | Direction::INGRESS);
    if let Some(origins) = input.wire.origins
        && flow.has(flags::ATTRIBUTED)
        && has_list
    {
        out.extend_from_slice(origins.logs());
    }
}

#[inline]
fn summary(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    if let Some(text) = input.wire.detail.and_then(|detail| detail.summary.as_ref()) {
        return out.extend_from_slice(text);
    }
    let is_packet = flow.event_type() != EventType::L7;
    if is_packet && matches!((flow.ip_version, flow.protocol), (4 | 6, protocol::TCP)) {
        return out.extend_from_slice(&TCP_SUMMARIES[usize::from(flow.tcp_flags)]);
    }
    message::<100_000>(out, |out| print(out, &Summary(flow)));
}

/// The field of the summary by TCP flags.
static TCP_SUMMARIES: LazyLock<Vec<Box<[u8]>>> = LazyLock::new(|| {
    let field = |tcp_flags| {
        let flow = Flow { ip_version: 4, protocol: protocol::TCP, tcp_flags, ..Flow::default() };
        let mut out = Vec::new();
        string::<100_000>(&mut out, Summary(&flow).to_string().as_bytes());
        out.into_boxed_slice()
    };
    (0..=u8::MAX).map(field).collect()
});

fn print(out: &mut Vec<u8>, text: &impl fmt::Display) {
    write!(out, "{text}").expect("a vector takes all that is written");
}

/// `Any` with a `FlowExtension`.
fn extension(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    message::<150_000>(out, |out| {
        string::<1>(out, EXTENSION_URL.as_bytes());
        let at = out.len();
        message::<2>(out, |out| extension_body(input, flow, out));
        // An `Any` without content has no such field.
        if out.len() == at + 2 {
            out.truncate(at);
        }
    });
}

static EXTENSION_URL: LazyLock<String> =
    LazyLock::new(|| specola_proto::google::Any::pack(&ext::FlowExtension::default()).type_url);

fn extension_body(input: &Input<'_>, flow: &Flow, out: &mut Vec<u8>) {
    let is = |bits: u16| u64::from(flow.has(bits));
    number::<1>(out, is(flags::COUNTERS));
    number::<2>(out, flow.packets_forward);
    number::<3>(out, flow.packets_reverse);
    number::<4>(out, flow.bytes_forward);
    number::<5>(out, flow.bytes_reverse);
    number::<6>(out, flow.duration_ns);
    number::<7>(out, is(flags::CLOSED));
    number::<8>(out, is(flags::MID_STREAM));
    number::<9>(out, is(flags::FRAGMENT));
    number::<10>(out, flow.length.into());
    number::<11>(out, flow.folded.into());
    number::<12>(out, flow.revision.into());
    number::<13>(out, is(flags::DEFAULT_DENY));
    if flow.has(flags::ATTRIBUTED) {
        out.extend_from_slice(input.wire.origins.map_or(&[], |origins| origins.extension()));
        number::<15>(out, flow.cookie.into());
    }
    number::<16>(out, is(flags::BY_AGENT));
}
