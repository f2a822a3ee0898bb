//! What a change costs on a large node, from the call to a packet that gets the new verdict:
//! `cargo bench -p specola-tests --bench changes`.
//!
//! A real agent with 500 endpoints and a full table of identities; packets every 100 us. Two kinds of change:
//!
//! - a policy opens another port, given as users give it: a file that is renamed into the policy directory;
//! - a pod comes on another node, with an identity that 1,000 selectors match, given as the other agent gives it: its
//!   objects in the store. All endpoints get new entries, then the address is known, then its packets pass.
//!
//! A figure is the time at which the first packet with the new verdict was sent, less the time of the call.
//!
//! `--policies 100,1000`, `--rounds N`, `--identities N` for others than the usual sizes; `--json FILE` writes all
//! figures. `SPECOLA_BIN` names another binary.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod agent;
mod cluster;
mod probes;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{Agent, CpuTime};
use crate::probes::{PORTS, Probes};

/// Sizes, in the order in which they are measured.
const POLICIES: [usize; 3] = [100, 1_000, 10_000];
const ROUNDS: usize = 200;
/// Rest between two changes: longer than a grace period of the kernel, so that each is a change of its own.
const REST: Duration = Duration::from_millis(60);

struct Arguments {
    policies: Vec<usize>,
    rounds: usize,
    identities: u32,
    json: Option<String>,
}

/// Figures of one size.
struct Row {
    policies: usize,
    policy: Spread,
    policy_cpu: Cpu,
    identity: Spread,
    identity_cpu: Cpu,
}

/// Milliseconds from call to packet, sorted.
struct Spread(Vec<f64>);

/// CPU of the agent for one change, milliseconds.
#[derive(Clone, Copy)]
struct Cpu {
    /// The thread that decides and writes the kernel's maps.
    node: f64,
    /// Those that read files.
    others: f64,
}

fn main() {
    let arguments = arguments();
    let agent = Agent::start(arguments.identities);
    let mut rows = Vec::new();
    for policies in &arguments.policies {
        eprintln!("{policies} policies");
        agent.grow_to(*policies);
        rows.push(measure(&agent, *policies, arguments.rounds));
        eprintln!("{}", row_text(&rows[rows.len() - 1]));
    }
    print_table(&rows, &arguments);
    if let Some(path) = &arguments.json {
        std::fs::write(path, to_json(&rows).to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

fn measure(agent: &Agent, policies: usize, rounds: usize) -> Row {
    let (policy, policy_cpu) = policy_changes(agent, rounds);
    let (identity, identity_cpu) = new_identities(agent, rounds);
    Row { policies, policy, policy_cpu, identity, identity_cpu }
}

/// The port that the prober may send to becomes the other one, again and again.
fn policy_changes(agent: &Agent, rounds: usize) -> (Spread, Cpu) {
    let probes = Probes::start(agent.prober(), agent.server(), agent.server_address(), &PORTS);
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    let mut open = 0;
    agent.prepare_port(PORTS[open]).take_effect();
    probes.wait_until_closed(1 - open);
    probes.wait_until_open(open);
    for round in 0..rounds + WARM_UP {
        let next = 1 - open;
        let prepared = agent.prepare_port(PORTS[next]);
        std::thread::sleep(REST);
        let before = agent.cpu();
        let called = Instant::now();
        prepared.take_effect();
        let passed = probes.first_after(next, called);
        probes.wait_until_closed(open);
        std::thread::sleep(REST);
        if round >= WARM_UP {
            times.push(passed);
            cpu.push(agent.cpu().since(&before));
        }
        open = next;
    }
    (Spread::of(&times), Cpu::of(&cpu))
}

/// A pod that 1,000 selectors match comes on another node.
fn new_identities(agent: &Agent, rounds: usize) -> (Spread, Cpu) {
    let mut times = Vec::new();
    let mut cpu = Vec::new();
    for round in 0..rounds + WARM_UP {
        let newcomer = agent.newcomer();
        let source = (agent.network(), newcomer.address());
        let probes = Probes::start_from(source, agent.server(), agent.server_address(), &PORTS[..1]);
        probes.wait_until_closed(0);
        let before = agent.cpu();
        let called = Instant::now();
        newcomer.come();
        let passed = probes.first_after(0, called);
        std::thread::sleep(REST);
        if round >= WARM_UP {
            times.push(passed);
            cpu.push(agent.cpu().since(&before));
        }
        newcomer.go();
        probes.wait_until_closed(0);
        std::thread::sleep(REST);
    }
    (Spread::of(&times), Cpu::of(&cpu))
}

/// Rounds that do not count.
const WARM_UP: usize = 5;

impl Spread {
    fn of(times: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    fn at(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

impl Cpu {
    /// Medians.
    fn of(used: &[CpuTime]) -> Self {
        let median = |part: fn(&CpuTime) -> f64| {
            let mut sorted: Vec<f64> = used.iter().map(part).collect();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        Self { node: median(|used| used.node_ms), others: median(|used| used.others_ms) }
    }
}

fn print_table(rows: &[Row], arguments: &Arguments) {
    println!("## From the call to the packet\n");
    println!(
        "{} identities, {} endpoints; {} changes of each kind; time in ms, minimum / median / 99th percentile / maximum; \
         CPU in ms is that of the node thread + that of the threads that read files.\n",
        arguments.identities,
        cluster::ENDPOINTS,
        arguments.rounds
    );
    println!("| policies | one policy changes | CPU | an identity comes that 1,000 selectors match | CPU |");
    println!("|---:|---:|---:|---:|---:|");
    for row in rows {
        println!("{}", row_text(row));
    }
    if let (Some(first), Some(last)) = (rows.first(), rows.last())
        && rows.len() > 1
    {
        let growth = |spread: fn(&Row) -> &Spread| (spread(last).at(50) / spread(first).at(50) - 1.0) * 100.0;
        println!(
            "\nFrom {} to {} policies the medians grow by {:.0} % and {:.0} %.",
            first.policies,
            last.policies,
            growth(|row| &row.policy),
            growth(|row| &row.identity)
        );
    }
}

fn row_text(row: &Row) -> String {
    let spread = |spread: &Spread| {
        let [min, median, p99, max] = [0, 50, 99, 100].map(|percent| spread.at(percent));
        format!("{min:.2} / {median:.2} / {p99:.2} / {max:.2}")
    };
    let cpu = |cpu: Cpu| format!("{:.2} + {:.2}", cpu.node, cpu.others);
    format!(
        "| {} | {} | {} | {} | {} |",
        row.policies,
        spread(&row.policy),
        cpu(row.policy_cpu),
        spread(&row.identity),
        cpu(row.identity_cpu)
    )
}

fn to_json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "policies": row.policies,
            "policy_ms": row.policy.0,
            "policy_cpu_ms": {"node": row.policy_cpu.node, "others": row.policy_cpu.others},
            "identity_ms": row.identity.0,
            "identity_cpu_ms": {"node": row.identity_cpu.node, "others": row.identity_cpu.others},
        })
    });
    Value::Array(rows.collect())
}

fn arguments() -> Arguments {
    let given: Vec<String> = std::env::args().collect();
    let after =
        |flag: &str| given.iter().position(|one| one == flag).and_then(|at| given.get(at + 1)).cloned();
    let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let policies = after("--policies")
        .map_or(POLICIES.to_vec(), |list| list.split(',').map(|text| number(text.to_owned())).collect());
    Arguments {
        policies,
        rounds: after("--rounds").map_or(ROUNDS, number),
        identities: after("--identities")
            .map_or(cluster::IDENTITIES, |text| u32::try_from(number(text)).expect("at most 65,280")),
        json: after("--json"),
    }
}
