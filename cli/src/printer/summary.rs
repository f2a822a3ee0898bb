//! The part in parentheses: what the packet or message is, and the totals of its connection.

use specola_proto::flow::{AuthType, Flow};
use specola_proto::specola::v1::FlowExtension;

use crate::color::{Color, Paint};
use crate::printer::escape;
use crate::status::text::grouped;

/// The extension of a flow; one that cannot be read counts as absent.
pub(crate) fn extension(flow: &Flow) -> Option<FlowExtension> {
    flow.extensions.as_ref().and_then(|any| any.unpack().ok().flatten())
}

/// `TCP Flags: SYN; Auth: SPIRE; 12 packets, 3.4 KiB / 9 packets, 1.1 KiB`.
pub(super) fn text(flow: &Flow, extension: Option<&FlowExtension>, paint: Paint) -> String {
    let mut parts = Vec::new();
    if let Some(id) = flow.ip_trace_id.filter(|id| id.trace_id != 0) {
        parts.push(format!("IP Trace ID: {}", id.trace_id));
    }
    if !flow.summary.is_empty() {
        parts.push(escape(&flow.summary));
    }
    if let Ok(auth @ (AuthType::Spire | AuthType::TestAlwaysFail)) = AuthType::try_from(flow.auth_type) {
        let color = if auth == AuthType::Spire { Color::Good } else { Color::Bad };
        parts.push(format!("Auth: {}", paint.color(color, auth.as_str_name())));
    }
    if let Some(extension) = extension {
        parts.extend(totals(extension));
        if extension.folded > 0 {
            let packets = grouped(u64::from(extension.folded) + 1);
            let size = match extension.bytes_forward {
                bytes if bytes > 0 && !extension.has_counters => format!(", {}", binary_size(bytes)),
                _ => String::new(),
            };
            parts.push(format!("stands for {packets} packets{size}"));
        }
    }
    parts.join("; ")
}

/// Packets and bytes of the connection: of its initiator / of its responder.
fn totals(extension: &FlowExtension) -> Option<String> {
    let one = |packets: u64, bytes: u64| {
        let s = if packets == 1 { "" } else { "s" };
        format!("{packets} packet{s}, {}", binary_size(bytes))
    };
    extension.has_counters.then(|| {
        let forward = one(extension.packets_forward, extension.bytes_forward);
        format!("{forward} / {}", one(extension.packets_reverse, extension.bytes_reverse))
    })
}

/// `512 B`, `3.4 KiB`, `12.0 GiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut unit, mut shift) = (0, 0);
    while bytes >> shift >= 1024 {
        unit += 1;
        shift += 10;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
