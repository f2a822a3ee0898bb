//! Names of ICMP types and codes, as Hubble's summaries use them.

use std::fmt;

/// Name of a type, and of its codes by number.
type Entry = (&'static str, &'static [&'static str]);

/// Writes `Type`, `Type(Code)`, `Type(Code: n)` or `type(code)`, whichever the tables allow.
pub(crate) fn write_name(f: &mut fmt::Formatter<'_>, v6: bool, kind: u8, code: u8) -> fmt::Result {
    let Some((name, codes)) = (if v6 { v6_entry(kind) } else { v4_entry(kind) }) else {
        return write!(f, "{kind}({code})");
    };
    match codes.get(usize::from(code)) {
        Some(code) => write!(f, "{name}({code})"),
        None if codes.is_empty() && code == 0 => f.write_str(name),
        None => write!(f, "{name}(Code: {code})"),
    }
}

const fn v4_entry(kind: u8) -> Option<Entry> {
    Some(match kind {
        0 => ("EchoReply", &[]),
        3 => ("DestinationUnreachable", V4_UNREACHABLE),
        4 => ("SourceQuench", &[]),
        5 => ("Redirect", &["Net", "Host", "TOS+Net", "TOS+Host"]),
        8 => ("EchoRequest", &[]),
        9 => ("RouterAdvertisement", &[]),
        10 => ("RouterSolicitation", &[]),
        11 => ("TimeExceeded", &["TTLExceeded", "FragmentReassemblyTimeExceeded"]),
        12 => ("ParameterProblem", &["PointerIndicatesError", "MissingOption", "BadLength"]),
        13 => ("TimestampRequest", &[]),
        14 => ("TimestampReply", &[]),
        15 => ("InfoRequest", &[]),
        16 => ("InfoReply", &[]),
        17 => ("AddressMaskRequest", &[]),
        18 => ("AddressMaskReply", &[]),
        _ => return None,
    })
}

const fn v6_entry(kind: u8) -> Option<Entry> {
    Some(match kind {
        1 => ("DestinationUnreachable", V6_UNREACHABLE),
        2 => ("PacketTooBig", &[]),
        3 => ("TimeExceeded", &["HopLimitExceeded", "FragmentReassemblyTimeExceeded"]),
        4 => ("ParameterProblem", &["ErroneousHeader", "UnrecognizedNextHeader", "UnrecognizedIPv6Option"]),
        128 => ("EchoRequest", &[]),
        129 => ("EchoReply", &[]),
        130 => ("MLDv1MulticastListenerQueryMessage", &[]),
        131 => ("MLDv1MulticastListenerReportMessage", &[]),
        132 => ("MLDv1MulticastListenerDoneMessage", &[]),
        133 => ("RouterSolicitation", &[]),
        134 => ("RouterAdvertisement", &[]),
        135 => ("NeighborSolicitation", &[]),
        136 => ("NeighborAdvertisement", &[]),
        137 => ("Redirect", &[]),
        143 => ("MLDv2MulticastListenerReportMessageV2", &[]),
        _ => return None,
    })
}

const V4_UNREACHABLE: &[&str] = &[
    "Net",
    "Host",
    "Protocol",
    "Port",
    "FragmentationNeeded",
    "SourceRoutingFailed",
    "NetUnknown",
    "HostUnknown",
    "SourceIsolated",
    "NetAdminProhibited",
    "HostAdminProhibited",
    "NetTOS",
    "HostTOS",
    "CommAdminProhibited",
    "HostPrecedence",
    "PrecedenceCutoff",
];

const V6_UNREACHABLE: &[&str] = &[
    "NoRouteToDst",
    "AdminProhibited",
    "BeyondScopeOfSrc",
    "AddressUnreachable",
    "PortUnreachable",
    "SrcAddressFailedPolicy",
    "RejectRouteToDst",
];
