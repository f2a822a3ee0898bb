//! What an agent says of its counters.

use std::collections::BTreeMap;

use serde_json::Value;
use specola_testkit::eventually;

use crate::Sandbox;
use crate::sandbox::{PATIENCE, check};

/// The counters of one node: of its lanes, its ledger and its packets, under names such as `deny.attempts`,
/// `ledger.pushed` and `ingress.133`.
#[derive(Clone, Debug, Default)]
pub struct Books {
    numbers: BTreeMap<String, u64>,
    /// The equations that do not hold.
    pub broken: Vec<String>,
}

impl Books {
    /// The counters as they are now.
    ///
    /// # Panics
    /// The agent does not answer.
    #[track_caller]
    pub fn now(sandbox: &Sandbox, node: &str) -> Self {
        let socket = sandbox.admin_socket(node);
        let text = check(&mut sandbox.specola(&["status", "--admin-socket", &socket, "-o", "json"]));
        let status: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let agent = &status["nodes"][0]["agent"];
        let mut books = Self::default();
        for lane in agent["lanes"].as_array().into_iter().flatten() {
            books.take(lane["name"].as_str().unwrap_or_default(), lane);
        }
        books.take("ledger", &agent["ledger"]);
        for count in agent["drops"].as_array().into_iter().flatten() {
            let name = format!("{}.{}", count["direction"].as_str().unwrap_or(""), number(&count["reason"]));
            books.numbers.insert(name, number(&count["packets"]));
        }
        let equations =
            agent["ledger"]["equations"].as_array().unwrap_or_else(|| panic!("no ledger: {text}"));
        assert_eq!(equations.len(), 4, "{text}");
        let broken = equations.iter().filter(|equation| equation["holds"] != true);
        books.broken = broken.map(ToString::to_string).collect();
        books
    }

    /// The counters once every record is worked on; the equations hold then.
    ///
    /// # Panics
    /// That does not come about.
    #[track_caller]
    pub fn settled(sandbox: &Sandbox, node: &str) -> Self {
        eventually("every record is accounted for", PATIENCE, || {
            let books = Self::now(sandbox, node);
            let under_way = ["deny.waiting", "allow.waiting", "trace.waiting", "ledger.in_hand"];
            let is_quiet = under_way.iter().all(|name| books.get(name) == 0);
            if is_quiet && books.broken.is_empty() { Ok(books) } else { Err(books) }
        })
    }

    /// A counter; those that were never used are zero.
    pub fn get(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// How much a counter grew since.
    ///
    /// # Panics
    /// It shrank.
    #[track_caller]
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        let (now, then) = (self.get(name), before.get(name));
        now.checked_sub(then).unwrap_or_else(|| panic!("{name} went back from {then} to {now}"))
    }

    /// Counters that are lower than before, apart from those that may be.
    pub fn shrunk_since(&self, before: &Self) -> Vec<String> {
        let may_shrink = |name: &str| {
            name.to_lowercase().ends_with("waiting") || name.ends_with(".held") || name.ends_with(".in_hand")
        };
        let shrunk =
            before.numbers.iter().filter(|(name, then)| !may_shrink(name) && self.get(name) < **then);
        shrunk.map(|(name, then)| format!("{name} {then} -> {}", self.get(name))).collect()
    }

    fn take(&mut self, prefix: &str, message: &Value) {
        for (name, value) in message.as_object().into_iter().flatten() {
            if value.is_string() && name != "name" {
                self.numbers.insert(format!("{prefix}.{name}"), number(value));
            }
        }
    }
}

/// Protobuf's JSON writes 64-bit numbers as strings and leaves zeros out.
#[track_caller]
fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().unwrap_or_else(|error| panic!("{text}: {error}")),
        other => other.as_u64().unwrap_or_else(|| panic!("{other} is no number")),
    }
}
