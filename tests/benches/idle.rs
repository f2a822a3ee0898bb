//! What agents cost while nothing happens: a sandbox without traffic, its agents' CPU time and wake-ups.
//!
//! `cargo bench -p specola-tests --bench idle [-- --nodes 8] [--seconds 30] [--json FILE]`
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use specola_tests::Sandbox;

/// What to measure.
struct Options {
    nodes: usize,
    seconds: u64,
    json: Option<String>,
}

fn main() {
    let options = Options::parse();
    let sandbox = Sandbox::up("idle", &cluster(options.nodes));
    let figures = measure(&options, &sandbox);
    println!("{}", table(&figures, &options));
    if let Some(path) = &options.json {
        fs::write(path, json_of(&figures, &options).to_string())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { nodes: 8, seconds: 30, json: None };
        // What cargo passes to every bench.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| panic!("{argument} takes a value"));
            match argument.as_str() {
                "--nodes" => options.nodes = value.parse().expect("--nodes takes a number"),
                "--seconds" => options.seconds = value.parse().expect("--seconds takes a number"),
                "--json" => options.json = Some(value),
                other => panic!("unknown option {other}: --nodes, --seconds, --json"),
            }
        }
        options
    }
}

/// Nodes with one silent pod each.
fn cluster(nodes: usize) -> String {
    let mut text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: quiet}\n".to_owned();
    for node in 1..=nodes {
        write!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{node}}}\n\
             ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: silent-{node}, namespace: quiet}}\n\
             spec: {{nodeName: n{node}}}\n"
        )
        .expect("a string takes all");
    }
    text
}

/// What a thread did so far.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cpu_ns: u64,
    wake_ups: u64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.cpu_ns += other.cpu_ns;
        self.wake_ups += other.wake_ups;
    }
}

/// By name of the threads; all agents together.
type Figures = BTreeMap<String, Spent>;

fn measure(options: &Options, sandbox: &Sandbox) -> (Figures, f64) {
    let pids: Vec<i32> = (1..=options.nodes)
        .map(|node| sandbox.agent_pid(&format!("n{node}")).expect("the agent runs"))
        .collect();
    // What the start left: connections that end, addresses that become known.
    thread::sleep(SETTLE);
    let (before, start) = (threads(&pids), Instant::now());
    thread::sleep(Duration::from_secs(options.seconds));
    let (after, seconds) = (threads(&pids), start.elapsed().as_secs_f64());
    let mut figures = Figures::new();
    for (thread, (name, now)) in after {
        let then = before.get(&thread).map(|(_, then)| *then).unwrap_or_default();
        let spent = Spent {
            cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
            wake_ups: now.wake_ups.saturating_sub(then.wake_ups),
        };
        *figures.entry(name).or_default() += spent;
    }
    (figures, seconds)
}

/// Threads by process and thread id.
fn threads(pids: &[i32]) -> BTreeMap<(i32, String), (String, Spent)> {
    let mut found = BTreeMap::new();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/task")).expect("the agent runs") {
            let directory = entry.expect("a thread").path();
            let thread = directory.file_name().expect("a number").to_string_lossy().into_owned();
            let read = |file: &str| fs::read_to_string(directory.join(file));
            // A thread of a pool may end meanwhile.
            let (Ok(name), Ok(times), Ok(status)) = (read("comm"), read("schedstat"), read("status")) else {
                continue;
            };
            let cpu = times.split_whitespace().next().expect("the time");
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let spent = Spent {
                cpu_ns: cpu.parse().expect("a number"),
                wake_ups: switches.expect("the kernel counts").trim().parse().expect("a number"),
            };
            found.insert((*pid, thread), (name.trim().to_owned(), spent));
        }
    }
    found
}

fn total(figures: &Figures) -> Spent {
    figures.values().fold(Spent::default(), |mut total, spent| {
        total += *spent;
        total
    })
}

fn table((figures, seconds): &(Figures, f64), options: &Options) -> String {
    let agents = options.nodes as f64;
    let mut text = format!(
        "An idle agent, mean of {} in one sandbox, over {seconds:.0} s:\n\n\
         | thread | wake-ups per second | CPU, % of a core |\n|---|---|---|\n",
        options.nodes
    );
    let rows = figures.iter().map(|(name, spent)| (name.as_str(), *spent));
    for (name, spent) in rows.chain([("all", total(figures))]) {
        let wake_ups = spent.wake_ups as f64 / seconds / agents;
        let cpu = spent.cpu_ns as f64 / seconds / agents / 1e7;
        writeln!(text, "| {name} | {wake_ups:.2} | {cpu:.4} |").expect("a string takes all");
    }
    text
}

fn json_of((figures, seconds): &(Figures, f64), options: &Options) -> Value {
    let agents = options.nodes as f64;
    let row = |spent: &Spent| {
        json!({
            "wake_ups_per_second": spent.wake_ups as f64 / seconds / agents,
            "cpu_percent": spent.cpu_ns as f64 / seconds / agents / 1e7,
        })
    };
    let threads: BTreeMap<_, _> = figures.iter().map(|(name, spent)| (name, row(spent))).collect();
    json!({ "agents": options.nodes, "seconds": seconds, "all": row(&total(figures)), "threads": threads })
}

/// Time until a new sandbox is at rest.
const SETTLE: Duration = Duration::from_secs(20);
