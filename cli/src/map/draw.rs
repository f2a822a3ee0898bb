//! The forms of a map.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

use super::peers;
use crate::columns::Columns;
use crate::printer::binary_size;
use crate::status::text::grouped;
use crate::traffic::{Pair, Totals};

type Edges = BTreeMap<Pair, Totals>;

/// Aligned columns, the busiest pairs first.
///
/// # Errors
/// The output cannot be written.
pub(super) fn text(out: &mut impl Write, edges: &Edges, other: &Totals) -> io::Result<()> {
    let mut table = Columns::new(["FROM", "TO", "PORT", "PASSED", "DROPPED", "AUDITED", "PACKETS", "BYTES"]);
    let numbers = |totals: &Totals| {
        let counts = [totals.passed, totals.dropped, totals.audited, totals.packets].map(grouped);
        counts.into_iter().chain([binary_size(totals.bytes)])
    };
    for (pair, totals) in by_traffic(edges) {
        let names = [pair.from.clone(), pair.to.clone(), pair.service()];
        table.row(names.into_iter().chain(numbers(totals)));
    }
    if other.events() > 0 {
        let names = ["others", "others", "-"].map(str::to_owned);
        table.row(names.into_iter().chain(numbers(other)));
    }
    table.write(out)
}

fn by_traffic(edges: &Edges) -> Vec<(&Pair, &Totals)> {
    let mut sorted: Vec<_> = edges.iter().collect();
    sorted.sort_by_key(|(_, totals)| std::cmp::Reverse((totals.bytes, totals.events())));
    sorted
}

/// A Graphviz graph: dropped pairs are red and dashed, audited ones orange.
///
/// # Errors
/// The output cannot be written.
pub(super) fn dot(out: &mut impl Write, edges: &Edges) -> io::Result<()> {
    writeln!(out, "digraph specola {{\n  rankdir=LR;\n  node [shape=box];")?;
    for peer in peers(edges) {
        writeln!(out, "  {};", dot_quoted(peer))?;
    }
    for (pair, totals) in edges {
        let label = dot_quoted(&label(pair, totals));
        let look = match look(totals) {
            Look::Dropped => ", color=red, style=dashed",
            Look::Audited => ", color=orange",
            Look::Passed => "",
        };
        writeln!(out, "  {} -> {} [label={label}{look}];", dot_quoted(&pair.from), dot_quoted(&pair.to))?;
    }
    writeln!(out, "}}")
}

fn dot_quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A Mermaid flow chart: dropped pairs are dotted.
///
/// # Errors
/// The output cannot be written.
pub(super) fn mermaid(out: &mut impl Write, edges: &Edges) -> io::Result<()> {
    writeln!(out, "flowchart LR")?;
    let numbers: BTreeMap<&str, usize> =
        peers(edges).into_iter().enumerate().map(|(at, name)| (name, at)).collect();
    for (name, at) in &numbers {
        writeln!(out, "  n{at}[\"{}\"]", mermaid_text(name))?;
    }
    for (pair, totals) in edges {
        let (from, to) = (numbers[pair.from.as_str()], numbers[pair.to.as_str()]);
        let arrow = if look(totals) == Look::Dropped { "-.->" } else { "-->" };
        writeln!(out, "  n{from} {arrow}|\"{}\"| n{to}", mermaid_text(&label(pair, totals)))?;
    }
    Ok(())
}

/// Characters that mean something to Mermaid or to HTML, as Mermaid's entities.
fn mermaid_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '#' | '<' | '>' | '&' | ';' | '`' => safe.push_str(&format!("#{};", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Look {
    Passed,
    Audited,
    Dropped,
}

/// A pair is dropped when nothing of it passed.
const fn look(totals: &Totals) -> Look {
    match (totals.passed, totals.audited) {
        (0, 0) => Look::Dropped,
        (_, 0) => Look::Passed,
        _ => Look::Audited,
    }
}

fn label(pair: &Pair, totals: &Totals) -> String {
    let mut text = pair.service();
    if totals.bytes > 0 {
        text.push_str(&format!(", {}", binary_size(totals.bytes)));
    }
    if totals.dropped > 0 {
        text.push_str(&format!(", {} dropped", grouped(totals.dropped)));
    }
    if totals.audited > 0 {
        text.push_str(&format!(", {} audited", grouped(totals.audited)));
    }
    text
}

/// One document.
///
/// # Errors
/// The output cannot be written.
pub(super) fn json(out: &mut impl Write, edges: &Edges, other: &Totals) -> io::Result<()> {
    let nodes: Vec<_> = peers(edges).into_iter().map(|name| json!({ "name": name })).collect();
    let edges: Vec<_> = edges
        .iter()
        .map(|(pair, totals)| {
            json!({
                "from": pair.from,
                "to": pair.to,
                "protocol": pair.protocol,
                "port": pair.port,
                "passed": totals.passed,
                "dropped": totals.dropped,
                "audited": totals.audited,
                "packets": totals.packets,
                "bytes": totals.bytes,
            })
        })
        .collect();
    let document = json!({ "nodes": nodes, "edges": edges, "other_events": other.events() });
    writeln!(out, "{document:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges() -> Edges {
        let pair =
            |from: &str, to: &str, port| Pair { from: from.into(), to: to.into(), protocol: "tcp", port };
        BTreeMap::from([
            (
                pair("shop/web", "shop/db", Some(5432)),
                Totals { passed: 12, packets: 1_200, bytes: 9_000, ..Totals::default() },
            ),
            (pair("shop/web", "say \"hi\"\\", Some(80)), Totals { dropped: 1_234, ..Totals::default() }),
            (
                pair("shop/db", "world", None),
                Totals { audited: 2, passed: 1, bytes: 70, ..Totals::default() },
            ),
        ])
    }

    fn drawn(draw: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        draw(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_cannot_break_out_of_a_graph() {
        let graph = drawn(|out| dot(out, &edges()));
        assert!(graph.contains(
            r#""shop/web" -> "say \"hi\"\\" [label="tcp/80, 1,234 dropped", color=red, style=dashed];"#
        ));
        let chart = drawn(|out| mermaid(out, &edges()));
        assert!(chart.contains(r#"["say #34;hi#34;\"]"#), "{chart}");
        assert_eq!(chart.matches("-.->").count(), 1, "{chart}");
    }

    #[test]
    fn the_busiest_pair_is_first_and_others_are_last() {
        let other = Totals { passed: 3, ..Totals::default() };
        let text = drawn(|out| text(out, &edges(), &other));
        let first: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(first, ["FROM", "shop/web", "shop/db", "shop/web", "others"]);
    }

    #[test]
    fn programs_read_it() {
        let text = drawn(|out| json(out, &edges(), &Totals::default()));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["nodes"].as_array().unwrap().len(), 4);
        assert_eq!(document["edges"][0]["to"], "world");
        assert_eq!(document["edges"][1]["dropped"], 1_234);
    }
}
