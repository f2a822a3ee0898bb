//! The figures.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Options;
use crate::world::{ADDRESSES, CT_ENTRIES, POLICY_ENTRIES};

/// All rows.
pub(crate) struct Report {
    rounds: usize,
    rows: Vec<Row>,
}

/// One case's figures.
pub(crate) struct Row {
    name: &'static str,
    flows: Option<u32>,
    goal: Option<u64>,
    bare: Vec<Duration>,
    driver: Vec<Duration>,
    /// Of the program, less the driver's of the same round, plus the bare empty program's.
    net: Vec<Duration>,
}

impl Row {
    pub(crate) fn new(name: &'static str, flows: Option<u32>, goal: Option<u64>) -> Self {
        Self { name, flows, goal, bare: Vec::new(), driver: Vec::new(), net: Vec::new() }
    }

    /// Adds one round: an empty program by itself, called by the driver, and the program called by the driver.
    pub(crate) fn add(&mut self, bare: Duration, driver: Duration, program: Duration) {
        self.bare.push(bare);
        self.driver.push(driver);
        self.net.push((program + bare).saturating_sub(driver));
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let flows = self.flows.map_or("-".to_owned(), |flows| flows.to_string());
        let goal = self.goal.map_or("-".to_owned(), |goal| goal.to_string());
        let (min, median) = (minimum(&self.net), median(&self.net));
        let ratio = min as f64 / minimum(&self.bare).max(1) as f64;
        format!("| {} | {flows} | {min} | {median} | {ratio:.1} | {goal} |", self.name)
    }

    fn json(&self) -> Value {
        json!({
            "case": self.name,
            "connections": self.flows,
            "min_ns": minimum(&self.net),
            "median_ns": median(&self.net),
            "empty_min_ns": minimum(&self.bare),
            "driver_min_ns": minimum(&self.driver),
            "goal_ns": self.goal,
        })
    }
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self { rounds: options.rounds, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The table.
    pub(crate) fn markdown(&self) -> String {
        let bare: Vec<Duration> = self.rows.iter().flat_map(|row| row.bare.iter().copied()).collect();
        let mut text = String::new();
        let written = writeln!(
            text,
            "{POLICY_ENTRIES} policy entries a pod, {ADDRESSES} addresses, {} of {CT_ENTRIES} connections; {} rounds; \
             empty program {} / {} ns (min / median)\n\n\
             | case | connections | min ns | median ns | x empty | goal ns |\n|---|---|---|---|---|---|",
            CT_ENTRIES / 2,
            self.rounds,
            minimum(&bare),
            median(&bare),
        );
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        for row in &self.rows {
            text.push_str(&row.line());
            text.push('\n');
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let report = json!({
            "benchmark": "packets",
            "policy_entries": POLICY_ENTRIES,
            "addresses": ADDRESSES,
            "connections_held": CT_ENTRIES / 2,
            "connections_room": CT_ENTRIES,
            "rounds": self.rounds,
            "rows": rows,
        });
        format!("{report:#}\n")
    }
}

fn minimum(times: &[Duration]) -> u128 {
    times.iter().min().map_or(0, Duration::as_nanos)
}

fn median(times: &[Duration]) -> u128 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(0, Duration::as_nanos)
}
