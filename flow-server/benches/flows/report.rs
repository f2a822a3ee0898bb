//! The table.

use std::io::Write as _;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{alloc, cpu};

/// Rows so far.
pub(crate) struct Report {
    only: Option<String>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    min: f64,
    median: f64,
    note: String,
    goal: &'static str,
    original: &'static str,
}

/// What a row is compared to.
#[derive(Clone, Copy)]
pub(crate) struct Beside {
    /// What is aimed at.
    pub(crate) goal: &'static str,
    /// What Hubble's server takes.
    pub(crate) original: &'static str,
}

/// Rounds of a measurement.
const ROUNDS: usize = 9;

impl Report {
    pub(crate) fn new(only: Option<String>) -> Self {
        Self { only, rows: Vec::new() }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    /// Measures `round`, which does its work this many times, in ns of this thread and allocations each.
    pub(crate) fn per_call(
        &mut self,
        name: &str,
        beside: Beside,
        times: u64,
        mut round: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        round()?;
        let (mut rounds, mut allocations) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let (calls, start) = (alloc::calls(), cpu::thread_ns()?);
            round()?;
            let taken = cpu::thread_ns()? - start;
            allocations = alloc::calls() - calls;
            rounds.push(taken as f64 / times as f64);
        }
        let note = format!("{:.3} allocations", allocations as f64 / times as f64);
        self.add(name, "ns", &mut rounds, note, beside);
        Ok(())
    }

    /// Adds a row of figures that were taken elsewhere.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        figures: &mut [f64],
        note: String,
        beside: Beside,
    ) {
        figures.sort_by(f64::total_cmp);
        let (Some(min), Some(median)) = (figures.first(), figures.get(figures.len() / 2)) else {
            return;
        };
        eprintln!("{name}: {min:.3} {unit} ({median:.3}) {note}");
        let Beside { goal, original } = beside;
        self.rows.push(Row { name: name.to_owned(), unit, min: *min, median: *median, note, goal, original });
    }

    /// Prints the table and writes the file.
    pub(crate) fn finish(self, json: Option<&str>) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "| what | unit | smallest | median | | goal | Hubble |\n|---|---|---|---|---|---|---|"
        )?;
        for Row { name, unit, min, median, note, goal, original } in &self.rows {
            writeln!(out, "| {name} | {unit} | {min:.3} | {median:.3} | {note} | {goal} | {original} |")?;
        }
        if let Some(path) = json {
            let row = |row: &Row| {
                json!({
                    "name": row.name, "unit": row.unit, "min": row.min, "median": row.median, "note": row.note,
                    "goal": row.goal, "original": row.original,
                })
            };
            let rows: Vec<Value> = self.rows.iter().map(row).collect();
            let text = serde_json::to_string_pretty(&rows)?;
            std::fs::write(path, text).with_context(|| format!("write {path}"))?;
        }
        Ok(())
    }
}
