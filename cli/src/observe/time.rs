//! Times on the command line and in the output.

use clap::ValueEnum;
use specola_proto::google::Timestamp;

/// Layout of a printed time, UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Layout {
    /// Jan  2 15:04:05.000
    #[value(name = "StampMilli", alias = "stampmilli")]
    StampMilli,
    /// 2006-01-02
    #[value(name = "YearMonthDay")]
    YearMonthDay,
    /// 2006-01-02T15-07:00
    #[value(name = "YearMonthDayHour")]
    YearMonthDayHour,
    /// 2006-01-02T15:04-07:00
    #[value(name = "YearMonthDayHourMinute")]
    YearMonthDayHourMinute,
    /// 2006-01-02T15:04:05Z
    #[value(name = "RFC3339")]
    Rfc3339,
    /// 2006-01-02T15:04:05.000Z
    #[value(name = "RFC3339Milli")]
    Rfc3339Milli,
    /// 2006-01-02T15:04:05.000000Z
    #[value(name = "RFC3339Micro")]
    Rfc3339Micro,
    /// 2006-01-02T15:04:05.999999999Z
    #[value(name = "RFC3339Nano")]
    Rfc3339Nano,
    /// Mon, 02 Jan 2006 15:04:05 -0700
    #[value(name = "RFC1123Z")]
    Rfc1123Z,
}

impl Layout {
    /// Writes a time; an absent or impossible one is `N/A`.
    pub(crate) fn format(self, time: Option<Timestamp>) -> String {
        let parsed = time.and_then(|time| {
            let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
            Some((jiff::Timestamp::from_second(time.seconds).ok()?, nanos))
        });
        let Some((seconds, nanos)) = parsed else { return "N/A".to_owned() };
        let text = |format: &str| seconds.strftime(format).to_string();
        match self {
            Self::StampMilli => format!("{}.{:03}", text("%b %e %H:%M:%S"), nanos / 1_000_000),
            Self::YearMonthDay => text("%Y-%m-%d"),
            Self::YearMonthDayHour => text("%Y-%m-%dT%HZ"),
            Self::YearMonthDayHourMinute => text("%Y-%m-%dT%H:%MZ"),
            Self::Rfc3339 => text("%Y-%m-%dT%H:%M:%SZ"),
            Self::Rfc3339Milli => format!("{}.{:03}Z", text("%Y-%m-%dT%H:%M:%S"), nanos / 1_000_000),
            Self::Rfc3339Micro => format!("{}.{:06}Z", text("%Y-%m-%dT%H:%M:%S"), nanos / 1_000),
            Self::Rfc3339Nano => {
                let fraction = format!("{nanos:09}");
                let fraction = fraction.trim_end_matches('0');
                let dot = if fraction.is_empty() { "" } else { "." };
                format!("{}{dot}{fraction}Z", text("%Y-%m-%dT%H:%M:%S"))
            }
            Self::Rfc1123Z => text("%a, %d %b %Y %H:%M:%S +0000"),
        }
    }
}

/// A text that is no time.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no time; use a duration before now such as 5m or 1h30m, or a time such as 2026-01-02T15:04:05Z"
)]
pub(crate) struct InvalidTime(String);

/// Reads a duration before `now`, or a time in one of the layouts (UTC where no offset is given).
///
/// # Errors
/// It is neither.
pub(crate) fn parse(text: &str, now: jiff::Timestamp) -> Result<Timestamp, InvalidTime> {
    let invalid = || InvalidTime(text.to_owned());
    if let Some(nanos) = go_duration(text) {
        let then = now.as_nanosecond().checked_sub(nanos).ok_or_else(invalid)?;
        let then = i64::try_from(then).ok().ok_or_else(invalid)?;
        return Ok(Timestamp::from_unix_nanos(then));
    }
    let time = absolute(text).ok_or_else(invalid)?;
    let nanos = i64::try_from(time.as_nanosecond()).ok().ok_or_else(invalid)?;
    Ok(Timestamp::from_unix_nanos(nanos))
}

fn absolute(text: &str) -> Option<jiff::Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = jiff::fmt::rfc2822::parse(text) {
        return Some(time.timestamp());
    }
    // Layouts that leave the finer parts out: fill them in.
    let (date, rest) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, offset) = rest.split_at(at);
    let clock = match clock.matches(':').count() {
        0 => format!("{clock}:00:00"),
        1 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let offset = if offset.is_empty() { "Z" } else { offset };
    format!("{date}T{clock}{offset}").parse().ok()
}

/// Nanoseconds of a duration in Go's form, such as `1h30m` or `1.5s`.
pub(crate) fn go_duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(sign * total)
}

/// A decimal number times `unit`, cut to whole nanoseconds.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || number.len() > 20 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        sum += i128::from(digit.to_digit(10)?) * place;
    }
    Some(sum)
}

/// Longer names first where one starts like another.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("μs", 1_000),
];

#[cfg(test)]
mod tests;
