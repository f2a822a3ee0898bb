//! A relay in front of four nodes, through the binary: order, coverage, a node that is killed, one that is paused.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use specola_testkit::eventually;
use specola_tests::Flow;
use specola_tests::sandbox::{PATIENCE, check, specola};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], stdout: Stdio) -> Self {
        let mut command = Command::new(specola());
        Self(command.args(arguments).stdout(stdout).stderr(Stdio::null()).spawn().expect("specola starts"))
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(status.expect("kill starts").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let (Ok(()) | Err(_)) = self.0.kill();
        let (Ok(_) | Err(_)) = self.0.wait();
    }
}

/// Agents with made-up traffic, and a relay.
struct Bed {
    directory: tempfile::TempDir,
    agents: Vec<Process>,
    _relay: Process,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = |name: &str| directory.path().join(format!("{name}.sock")).display().to_string();
        let agents = NODES.iter().map(|name| agent(name, &socket(name))).collect();
        let peers: Vec<String> = NODES.iter().map(|name| format!("{name}=unix://{}", socket(name))).collect();
        let relay = Process::start(
            &[
                "relay",
                "--peers",
                &peers.join(","),
                "--listen-address",
                "127.0.0.1:0",
                "--listen-socket",
                &socket("relay"),
            ],
            Stdio::null(),
        );
        let bed = Self { agents, _relay: relay, directory };
        bed.wait_states("all nodes are connected", &["NODE_CONNECTED"; 4]);
        bed
    }

    fn socket(&self, name: &str) -> String {
        format!("unix://{}", self.directory.path().join(format!("{name}.sock")).display())
    }

    fn ask(&self, command: &[&str]) -> String {
        let relay = self.socket("relay");
        check(Command::new(specola()).args(command).args(["--server", &relay]))
    }

    fn states(&self) -> Vec<String> {
        let nodes: Value = serde_json::from_str(&self.ask(&["list", "nodes", "-o", "json"])).expect("JSON");
        let nodes = nodes.as_array().expect("a list").iter();
        nodes.map(|node| node["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn wait_states(&self, what: &str, expected: &[&str]) {
        eventually(what, PATIENCE, || {
            // The relay itself may not be there yet.
            let relay = self.socket("relay");
            let output = Command::new(specola()).args(["status", "--server", &relay]).output();
            if !output.is_ok_and(|output| output.status.success()) {
                return Err(vec!["no relay".to_owned()]);
            }
            let states = self.states();
            if states == expected { Ok(()) } else { Err(states) }
        });
    }

    /// Lines of `observe -f` at the relay.
    fn follow(&self) -> (Process, Receiver<Value>) {
        let relay = self.socket("relay");
        let mut process =
            Process::start(&["observe", "--server", &relay, "-f", "-o", "json"], Stdio::piped());
        let out = BufReader::new(process.0.stdout.take().expect("a pipe"));
        let (sender, lines) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        (process, lines)
    }
}

fn agent(name: &str, socket: &str) -> Process {
    Process::start(
        &[
            "agent",
            "--node-name",
            name,
            "--synthetic",
            "200",
            "--observer-socket",
            socket,
            "--observer-listen",
            "none",
            "--metrics-listen",
            "none",
        ],
        Stdio::null(),
    )
}

/// Reads until flows of all these nodes have come, and gives the times of everything in between.
fn read_until(lines: &Receiver<Value>, nodes: &[&str], times: &mut Vec<String>) {
    let mut missing: BTreeSet<&str> = nodes.iter().copied().collect();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.get("flow").is_some() => {
                missing.remove(line["node_name"].as_str().unwrap_or_default());
                times.push(line["time"].as_str().expect("a time").to_owned());
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => panic!("no flows of {missing:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("observe ended, no flows of {missing:?}"),
        }
    }
}

#[test]
fn history_is_the_union_of_the_nodes_in_order() {
    let bed = Bed::new();
    let ask_until = |server: &str, until: &str| {
        let mut command = Command::new(specola());
        command.args(["observe", "--server", server, "-o", "json", "--all", "--until", until]);
        Flow::parse_lines(&check(&mut command))
    };
    let until = eventually("nodes have flows of the past", PATIENCE, || {
        let until = now();
        let count = ask_until(&bed.socket("n1"), &until).len();
        if count > 200 { Ok(until) } else { Err(count) }
    });
    let ask = |server: &str| ask_until(server, &until);
    let uuid = |flow: &Flow| flow.text("/uuid").to_owned();
    let union: BTreeSet<String> =
        NODES.iter().flat_map(|name| ask(&bed.socket(name))).map(|flow| uuid(&flow)).collect();
    let relayed = ask(&bed.socket("relay"));
    let seen: BTreeSet<String> = relayed.iter().map(uuid).collect();
    assert_eq!(relayed.len(), seen.len(), "nothing twice");
    assert!(!union.is_empty() && seen == union, "{} at the relay, {} at the nodes", seen.len(), union.len());
    let times: Vec<_> = relayed.iter().map(|flow| nanos(flow.text("/time"))).collect();
    assert!(times.is_sorted(), "flows are in order of time");
    let last = Flow::parse_lines(&bed.ask(&["observe", "-o", "json", "--last", "10"]));
    assert_eq!(last.len(), 10, "of all nodes together");
    assert!(last.iter().all(|flow| nanos(flow.text("/time")) > times[times.len() - 10]), "the newest ones");
    let namespaces = bed.ask(&["list", "namespaces"]);
    assert!(namespaces.starts_with("NAMESPACE"), "{namespaces}");
    let refused = Command::new(specola())
        .args(["observe", "--server", &bed.socket("relay"), "--allowlist", r#"{"source_port":["x"]}"#])
        .output()
        .expect("specola starts");
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && says.contains("source_port"), "{says}");
}

#[test]
fn a_follower_goes_on_without_nodes_and_takes_them_back() {
    let mut bed = Bed::new();
    let (_process, lines) = bed.follow();
    let mut times = Vec::new();
    read_until(&lines, &NODES, &mut times);
    let before = times.len();
    // Paused: its connection stays open, the others go on.
    bed.agents[2].signal("-STOP");
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(2) {
        read_until(&lines, &["n1", "n2", "n4"], &mut times);
    }
    assert!(times.len() - before > 100, "others are not held up: {}", times.len() - before);
    bed.agents[2].signal("-CONT");
    read_until(&lines, &["n3"], &mut times);
    // Killed, and back.
    let socket = bed.directory.path().join("n2.sock").display().to_string();
    bed.agents[1] = Process::start(&["version"], Stdio::null());
    bed.wait_states(
        "n2 is missed",
        &["NODE_CONNECTED", "NODE_UNAVAILABLE", "NODE_CONNECTED", "NODE_CONNECTED"],
    );
    let status: Value = serde_json::from_str(&bed.ask(&["status", "-o", "json"])).expect("JSON");
    assert!(status.to_string().contains("n2"), "{status}");
    while lines.try_recv().is_ok() {}
    read_until(&lines, &["n1", "n3", "n4"], &mut times);
    bed.agents[1] = agent("n2", &socket);
    read_until(&lines, &["n2"], &mut times);
}

/// Now, as `observe` reads it.
fn now() -> String {
    let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().expect("date starts");
    String::from_utf8(now.stdout).expect("a date").trim().to_owned()
}

/// A time as text that sorts.
fn nanos(time: &str) -> String {
    let (seconds, rest) =
        time.trim_end_matches('Z').split_once('.').unwrap_or((time.trim_end_matches('Z'), ""));
    format!("{seconds}.{rest:0<9}")
}
