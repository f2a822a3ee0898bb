//! The rows as text: for files, pipes and the cells of the live view.

use std::io::{self, Write};

use super::top::{Row, Top};
use super::view::{Picture, View};
use crate::columns::Columns;
use crate::observe::Layout;
use crate::printer::binary_size;
use crate::status::text::grouped;
use crate::traffic::Pair;

/// Rows of a printed table; the rest is in the row of the others.
const PRINTED: usize = 20;

/// Names of the columns.
pub(super) const COLUMNS: [&str; 10] =
    ["FROM", "TO", "PORT", "LAST", "FLOWS/S", "DROPS/S", "BYTES/S", "FLOWS", "DROPPED", "BYTES"];

/// The cells of a row.
pub(super) fn cells(pair: &Pair, row: &Row) -> [String; COLUMNS.len()] {
    numbers([pair.from.clone(), pair.to.clone(), pair.service(), row.verdict.to_owned()], row)
}

/// The cells of the row that stands for these many pairs.
pub(super) fn other_cells(row: &Row, pairs: u64) -> [String; COLUMNS.len()] {
    let name = format!("other ({} pairs)", grouped(pairs));
    numbers([name, String::new(), String::new(), String::new()], row)
}

fn numbers([from, to, port, last]: [String; 4], row: &Row) -> [String; COLUMNS.len()] {
    [
        from,
        to,
        port,
        last,
        rate(row.rate.flows),
        rate(row.rate.drops),
        byte_rate(row.rate.bytes),
        grouped(row.totals.events()),
        grouped(row.totals.dropped),
        binary_size(row.totals.bytes),
    ]
}

/// Everything in one line.
pub(super) fn summary(picture: &Picture) -> String {
    let all = &picture.all;
    let lost =
        if picture.lost > 0 { format!(", {} events lost", grouped(picture.lost)) } else { String::new() };
    format!(
        "{} flows/s, {} drops/s, {}/s; {} flows, {} dropped, {}{lost}",
        rate(all.rate.flows),
        rate(all.rate.drops),
        byte_rate(all.rate.bytes),
        grouped(all.totals.events()),
        grouped(all.totals.dropped),
        binary_size(all.totals.bytes),
    )
}

fn rate(rate: f64) -> String {
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive, a huge one saturates"
)]
fn byte_rate(rate: f64) -> String {
    binary_size(rate as u64)
}

/// Prints the busiest rows with the time.
///
/// # Errors
/// The output cannot be written.
pub(super) fn print(out: &mut impl Write, top: &Top) -> io::Result<()> {
    let mut picture = View::default().picture(top);
    let rest = picture.rows.split_off(picture.rows.len().min(PRINTED));
    let (mut other, mut pairs) = picture.other.take().unwrap_or_default();
    for (_, row) in &rest {
        other.totals.add(&row.totals);
        other.rate.flows += row.rate.flows;
        other.rate.drops += row.rate.drops;
        other.rate.bytes += row.rate.bytes;
        pairs += 1;
    }
    let now = specola_proto::google::Timestamp::from_unix_nanos(
        i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
    );
    writeln!(out, "{}: {}", Layout::Rfc3339.format(Some(now)), summary(&picture))?;
    let mut table = Columns::new(COLUMNS);
    picture.rows.iter().for_each(|(pair, row)| table.row(cells(pair, row)));
    if pairs > 0 {
        table.row(other_cells(&other, pairs));
    }
    table.write(out)?;
    writeln!(out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::traffic::Totals;

    #[test]
    fn the_rest_is_one_row() {
        let mut top = Top::new(Instant::now());
        for number in 0..PRINTED as u64 + 5 {
            let pair =
                Pair { from: format!("p{number:02}"), to: "x".to_owned(), protocol: "tcp", port: Some(80) };
            let totals = Totals { passed: 1, bytes: 1_000 - number, ..Totals::default() };
            top.add(pair, &totals, "FORWARDED", "");
        }
        let mut out = Vec::new();
        print(&mut out, &top).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 1 + PRINTED + 1 + 1, "{text}");
        assert!(lines[0].contains("; 25 flows, 0 dropped, 24.1 KiB"), "{text}");
        assert!(lines[1].starts_with("FROM"), "{text}");
        assert!(lines[PRINTED + 2].starts_with("other (5 pairs)"), "{text}");
    }
}
