//! A stand-in for `observe`: it makes flows of the clients' journals, and may be told to hide some.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde_json::json;
use specola_sandbox::{Kind, Outcome, client, read_journal};

/// Port whose connections are not shown.
pub(crate) const HIDE: &str = "STAND_IN_HIDES_PORT";

/// The real command's flags that the demo uses.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[arg(long)]
    sandbox: String,
    #[arg(long, required = true)]
    follow: bool,
    #[arg(long)]
    since: jiff::Timestamp,
    #[arg(short)]
    output: Option<String>,
    #[arg(long)]
    print_policy_names: bool,
    #[arg(long = "type")]
    types: Vec<String>,
}

pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let cluster = client::load(Some(&flags.sandbox))?;
    let hidden: Option<u16> = std::env::var(HIDE).ok().and_then(|port| port.parse().ok());
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        for pod in &cluster.pods {
            let connections = read_journal(&pod.journal())?;
            let count = shown.entry(pod.full_name()).or_default();
            for one in &connections[*count..] {
                if one.kind == Kind::Connect && Some(one.dport) != hidden && one.time >= flags.since {
                    let ok = one.result == Outcome::Ok;
                    for reply in [false, true].into_iter().take(1 + usize::from(ok)) {
                        show(one, reply, ok, flags.output.is_some())?;
                    }
                }
            }
            *count = connections.len();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn show(one: &specola_sandbox::Connection, reply: bool, ok: bool, as_json: bool) -> anyhow::Result<()> {
    let (source, destination) = if reply { (&one.dst, &one.src) } else { (&one.src, &one.dst) };
    let (sport, dport) = if reply { (one.dport, one.sport) } else { (one.sport, one.dport) };
    let flow = json!({"flow": {
        "verdict": if ok { "FORWARDED" } else { "DROPPED" },
        "drop_reason_desc": if ok { "DROP_REASON_UNKNOWN" } else { "POLICY_DENIED" },
        "event_type": {"type": if ok { 4 } else { 1 }},
        "trace_observation_point": if ok { "TO_ENDPOINT" } else { "UNKNOWN_POINT" },
        "is_reply": reply,
        "IP": {"source": source, "destination": destination},
        "l4": {one.proto.as_str(): {"source_port": sport, "destination_port": dport}},
    }});
    let line = if as_json { flow.to_string() } else { format!("{source} -> {destination}") };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
