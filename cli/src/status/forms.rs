//! The state of flow servers in the other forms of Hubble's client: fields, columns.

use std::io::{self, Write};

use specola_proto::observer::ServerStatusResponse;

use super::text::{duration, flows_rate, grouped};
use crate::columns::Columns;
use crate::printer::escape;

/// What a number is called: in the dict form, and as a column.
const NAMES: [(&str, &str); 8] = [
    ("NUM FLOWS", "NUM FLOWS"),
    ("MAX FLOWS", "MAX FLOWS"),
    ("SEEN FLOWS", "SEEN FLOWS"),
    ("FLOWS PER SECOND", "FLOWS PER SECOND"),
    ("UPTIME", "UPTIME"),
    ("NUM CONNECTED NODES", "NUM CONNECTED NODES"),
    ("NUM UNAVAIL. NODES", "NUM UNAVAILABLE NODES"),
    ("VERSION", "VERSION"),
];

fn values(status: &ServerStatusResponse) -> [String; 8] {
    let absent = || "N/A".to_owned();
    let nodes = |count: Option<u32>| count.map_or_else(absent, |count| grouped(count.into()));
    [
        grouped(status.num_flows),
        grouped(status.max_flows),
        grouped(status.seen_flows),
        flows_rate(status),
        duration(status.uptime_ns),
        nodes(status.num_connected_nodes),
        nodes(status.num_unavailable_nodes),
        if status.version.is_empty() { absent() } else { escape(&status.version) },
    ]
}

/// One field per line.
///
/// # Errors
/// The output cannot be written.
pub(super) fn dict(out: &mut impl Write, status: &ServerStatusResponse) -> io::Result<()> {
    let width = NAMES.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    NAMES
        .iter()
        .zip(values(status))
        .try_for_each(|((name, _), value)| writeln!(out, "{name:>width$}: {value}"))
}

/// One row per server; with the names of the nodes when there are several.
pub(super) fn table<'a>(
    servers: impl Iterator<Item = (&'a str, &'a ServerStatusResponse)>,
    several: bool,
) -> Columns {
    let node = several.then_some("NODE");
    let mut table = Columns::new(node.into_iter().chain(NAMES.iter().map(|(_, name)| *name)));
    for (name, status) in servers {
        let node = several.then(|| escape(name));
        table.row(node.into_iter().chain(values(status)));
    }
    table
}
