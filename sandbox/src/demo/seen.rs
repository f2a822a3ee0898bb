//! What `observe` shows, read from its JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};

/// One connection: protocol, address and port of who made it, address and port of whom it was made to.
pub(super) type Tuple = (String, String, u16, String, u16);

/// Everything that was observed.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Connections of which a packet reached the destination.
    pub forward: BTreeSet<Tuple>,
    /// Connections of which a reply reached the source.
    pub reply: BTreeSet<Tuple>,
    /// Connections of which a packet was dropped.
    pub dropped: BTreeSet<Tuple>,
    /// Flows by verdict.
    verdicts: BTreeMap<String, u64>,
    /// Dropped packets by reason and policies.
    drops: BTreeMap<String, u64>,
    is_full: bool,
    /// Why the picture is not whole.
    pub problems: Vec<String>,
}

/// An `observe` process and the thread that reads it.
pub(super) struct Collector {
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

impl Collector {
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        // In a group of its own: Ctrl-C at the terminal must not end it before the summary.
        command.process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start observe")?;
        let output = child.stdout.take().context("a piped child has a pipe")?;
        let output = std::fs::File::from(output.into_owned_fd().context("cannot take observe's output")?);
        // tokio made the pipe non-blocking; the thread below waits in read.
        nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
            .context("cannot read observe's output")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match line {
                    Ok(line) => seen.add_line(&line),
                    Err(error) => {
                        return seen.problems.push(format!("observe's output cannot be read: {error}"));
                    }
                }
            }
        });
        Ok(Self { child, seen })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    /// When it had ended before: then its account is not whole.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot wait for observe")? {
            bail!("observe -o json ended early with {status}");
        }
        super::stop(&mut self.child).await
    }
}

impl Seen {
    fn add_line(&mut self, line: &str) {
        match serde_json::from_str::<Value>(line) {
            Err(error) => self.problems.push(format!("observe wrote {line:?}: {error}")),
            Ok(message) => {
                if let Some(flow) = message.get("flow") {
                    self.add_flow(flow);
                }
                if let Some(lost) = message.get("lost_events") {
                    self.problems.push(format!("flows were lost: {lost}"));
                }
            }
        }
    }

    fn add_flow(&mut self, flow: &Value) {
        let verdict = text(flow, "/verdict");
        *self.verdicts.entry(verdict.to_owned()).or_default() += 1;
        let kind = flow.pointer("/event_type/type").and_then(Value::as_u64).unwrap_or(0);
        if kind == DROP {
            *self.drops.entry(drop_cause(flow)).or_default() += 1;
        }
        let Some(tuple) = tuple(flow) else { return };
        if self.forward.len() + self.dropped.len() >= MOST_CONNECTIONS {
            if !self.is_full {
                self.problems.push(format!("only the first {MOST_CONNECTIONS} connections were compared"));
                self.is_full = true;
            }
            return;
        }
        let is_reply = flow.get("is_reply").and_then(Value::as_bool) == Some(true);
        let reached = verdict == "FORWARDED" && text(flow, "/trace_observation_point") == "TO_ENDPOINT";
        if verdict == "DROPPED" {
            self.dropped.insert(tuple);
        } else if reached && is_reply {
            self.reply.insert(tuple);
        } else if reached {
            self.forward.insert(tuple);
        }
    }

    /// Flows by verdict, drops by policy.
    pub(super) fn summary(&self) -> String {
        let lines = |title: &str, counts: &BTreeMap<String, u64>| {
            let lines = counts.iter().map(|(what, count)| format!("{count:>8}  {what}\n"));
            format!("{title}\n{}", lines.collect::<String>())
        };
        lines("Flows by verdict", &self.verdicts) + &lines("Dropped packets by cause", &self.drops)
    }
}

/// The connection that a TCP or UDP flow belongs to; a reply belongs to the one it answers.
fn tuple(flow: &Value) -> Option<Tuple> {
    let (proto, ports) =
        flow.get("l4")?.as_object()?.iter().find(|(proto, _)| matches!(proto.as_str(), "TCP" | "UDP"))?;
    let port = |name: &str| u16::try_from(ports.get(name)?.as_u64()?).ok();
    let source = (text(flow, "/IP/source").to_owned(), port("source_port")?);
    let destination = (text(flow, "/IP/destination").to_owned(), port("destination_port")?);
    let is_reply = flow.get("is_reply").and_then(Value::as_bool) == Some(true);
    let (from, to) = if is_reply { (destination, source) } else { (source, destination) };
    Some((proto.clone(), from.0, from.1, to.0, to.1))
}

fn drop_cause(flow: &Value) -> String {
    let mut policies = BTreeSet::new();
    for list in ["ingress_denied_by", "egress_denied_by"] {
        for policy in flow.get(list).and_then(Value::as_array).into_iter().flatten() {
            policies.insert(format!("{}/{}", text(policy, "/namespace"), text(policy, "/name")));
        }
    }
    let reason = text(flow, "/drop_reason_desc");
    let policies: Vec<String> = policies.into_iter().collect();
    if policies.is_empty() { reason.to_owned() } else { format!("{reason} by {}", policies.join(", ")) }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What a demo that runs for days keeps in memory.
const MOST_CONNECTIONS: usize = 200_000;

/// Hubble's number of drop events. A denied packet also gives a verdict event, which must not count twice.
const DROP: u64 = 1;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flow(verdict: &str, kind: u64, reply: bool, extra: &Value) -> String {
        let (source, destination) = if reply { ("10.0.0.2", "10.0.0.1") } else { ("10.0.0.1", "10.0.0.2") };
        let (sport, dport) = if reply { (80, 4000) } else { (4000, 80) };
        let mut flow = json!({
            "verdict": verdict, "event_type": {"type": kind}, "is_reply": reply,
            "IP": {"source": source, "destination": destination},
            "l4": {"TCP": {"source_port": sport, "destination_port": dport}},
        });
        for (key, value) in extra.as_object().expect("a map") {
            flow[key] = value.clone();
        }
        json!({"flow": flow}).to_string()
    }

    #[test]
    fn flows_are_sorted_into_connections() {
        let reached = json!({"trace_observation_point": "TO_ENDPOINT"});
        let tuple: Tuple = ("TCP".into(), "10.0.0.1".into(), 4000, "10.0.0.2".into(), 80);
        let set = BTreeSet::from([tuple]);
        let mut seen = Seen::default();
        seen.add_line(&flow("FORWARDED", 5, false, &json!({})));
        seen.add_line(&flow("FORWARDED", 4, false, &json!({"trace_observation_point": "TO_NETWORK"})));
        assert!(seen.forward.is_empty(), "it did not reach the destination yet");
        seen.add_line(&flow("FORWARDED", 4, false, &reached));
        assert_eq!((&seen.forward, seen.reply.len()), (&set, 0));
        seen.add_line(&flow("FORWARDED", 4, true, &reached));
        assert_eq!(seen.reply, set, "a reply belongs to the connection that it answers");
        let denied = json!({"drop_reason_desc": "POLICY_DENY", "ingress_denied_by": [{"namespace": "n", "name": "p"}]});
        seen.add_line(&flow("DROPPED", 1, false, &denied));
        seen.add_line(&flow("DROPPED", 5, false, &denied));
        assert_eq!(seen.dropped, set);
        assert_eq!(
            seen.drops,
            BTreeMap::from([("POLICY_DENY by n/p".to_owned(), 1)]),
            "verdicts are no second drop"
        );
        assert_eq!(seen.verdicts, BTreeMap::from([("DROPPED".to_owned(), 2), ("FORWARDED".to_owned(), 4)]));
        assert!(seen.problems.is_empty());
    }

    #[test]
    fn loss_and_garbage_are_problems() {
        let mut seen = Seen::default();
        seen.add_line("{\"lost_events\":{\"num_events_lost\":3}}");
        seen.add_line("not JSON");
        seen.add_line("{\"flow\":{\"verdict\":\"FORWARDED\",\"l4\":{\"ICMPv4\":{}}}}");
        assert_eq!(seen.problems.len(), 2, "{:?}", seen.problems);
    }
}
