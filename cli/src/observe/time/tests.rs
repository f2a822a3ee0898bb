use super::*;

const NOW: i64 = 1_767_322_800_123_456_789;

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(NOW)).unwrap()
}

#[test]
fn times_are_read() {
    for (text, nanos) in [
        ("5m", NOW - 300_000_000_000),
        ("1h30m", NOW - 5_400_000_000_000),
        ("1.5s", NOW - 1_500_000_000),
        ("250ms", NOW - 250_000_000),
        ("3µs", NOW - 3_000),
        ("0", NOW),
        ("-1s", NOW + 1_000_000_000),
        ("2026-01-02T03:00:00Z", 1_767_322_800_000_000_000),
        ("2026-01-02T03:00:00.5Z", 1_767_322_800_500_000_000),
        ("2026-01-02T04:00:00+01:00", 1_767_322_800_000_000_000),
        ("2026-01-02", 1_767_312_000_000_000_000),
        ("2026-01-02T03-01:00", 1_767_326_400_000_000_000),
        ("2026-01-02T03:00Z", 1_767_322_800_000_000_000),
        ("Fri, 02 Jan 2026 03:00:00 +0000", 1_767_322_800_000_000_000),
    ] {
        assert_eq!(parse(text, now()).unwrap().unix_nanos(), nanos, "{text}");
    }
}

#[test]
fn other_texts_are_refused() {
    for text in
        ["", "m", "5", "5x", "1..5s", "yesterday", "2026-13-01", "99999999999999999999999h", "1h junk"]
    {
        let error = parse(text, now()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{text:?} is no time")), "{error}");
    }
}

#[test]
fn layouts_are_hubbles() {
    let time = Some(Timestamp { seconds: 1_767_322_800, nanos: 123_456_000 });
    for (layout, text) in [
        (Layout::StampMilli, "Jan  2 03:00:00.123"),
        (Layout::YearMonthDay, "2026-01-02"),
        (Layout::YearMonthDayHour, "2026-01-02T03Z"),
        (Layout::YearMonthDayHourMinute, "2026-01-02T03:00Z"),
        (Layout::Rfc3339, "2026-01-02T03:00:00Z"),
        (Layout::Rfc3339Milli, "2026-01-02T03:00:00.123Z"),
        (Layout::Rfc3339Micro, "2026-01-02T03:00:00.123456Z"),
        (Layout::Rfc3339Nano, "2026-01-02T03:00:00.123456Z"),
        (Layout::Rfc1123Z, "Fri, 02 Jan 2026 03:00:00 +0000"),
    ] {
        assert_eq!(layout.format(time), text);
    }
    assert_eq!(Layout::StampMilli.format(None), "N/A");
    assert_eq!(Layout::StampMilli.format(Some(Timestamp { seconds: 0, nanos: -1 })), "N/A");
    assert_eq!(Layout::StampMilli.format(Some(Timestamp { seconds: i64::MAX, nanos: 0 })), "N/A");
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_formatted_times_are_read_back(text in ".{0,24}", seconds in 0_i64..4_000_000_000, nanos in 0_i32..1_000_000_000) {
        let refused = parse(&text, now()).is_err();
        let time = Timestamp { seconds, nanos };
        proptest::prop_assert_eq!(parse(&Layout::Rfc3339Nano.format(Some(time)), now()).unwrap(), time);
        proptest::prop_assert!(refused || !text.is_empty());
    }
}
