//! A relay in front of four nodes, through the binary: order, coverage, a node that is killed, one that is paused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use specola_testkit::eventually;
use specola_tests::Flow;
use specola_tests::Sandbox;
use specola_tests::sandbox::{PATIENCE, check, specola};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// A process that ends with the test.
struct Process(Child, File);

impl Process {
    fn start(arguments: &[&str], stdout: Stdio) -> Self {
        let mut command = Command::new(specola());
        let said = tempfile::tempfile().expect("a temporary file");
        let stderr = said.try_clone().expect("a second handle");
        Self(command.args(arguments).stdout(stdout).stderr(stderr).spawn().expect("specola starts"), said)
    }

    /// Ends it. Gives what it said on standard error.
    fn finish(mut self) -> String {
        self.signal("-KILL");
        self.0.wait().expect("it ends");
        let mut said = String::new();
        self.1.seek(SeekFrom::Start(0)).and_then(|_| self.1.read_to_string(&mut said)).expect("its words");
        said
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
}

/// Lines of `observe -f`.
fn follow(server: &str) -> (Process, Receiver<Value>) {
    lines(&["observe", "--server", server, "-f", "-o", "json"], |line| serde_json::from_str(line).ok())
}

/// What a command writes, as it does, until a line cannot be read.
fn lines<T: Send + 'static>(
    command: &[&str],
    read: impl Fn(&str) -> Option<T> + Send + 'static,
) -> (Process, Receiver<T>) {
    let mut process = Process::start(command, Stdio::piped());
    let out = BufReader::new(process.0.stdout.take().expect("a pipe"));
    let (sender, lines) = sync_channel(100_000);
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let Some(line) = read(&line) else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (process, lines)
}

fn agent(name: &str, socket: &str) -> Process {
    Process::start(
        &[
            "agent",
            "--node-name",
            name,
            "--synthetic",
            "200",
            "--ring-size",
            "65536",
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

/// Node and time of a flow.
type Seen = (String, String);

/// By how much a flow of these nodes was older than one before at most, seconds.
fn largest_inversion(seen: &[Seen], nodes: &[&str]) -> f64 {
    let (mut newest, mut largest) = (None, 0.0_f64);
    for (_, time) in seen.iter().filter(|(node, _)| nodes.contains(&node.as_str())) {
        let at = second_of_day(time);
        let older = newest.map_or(0.0, |newest: f64| newest - at);
        // Past midnight it begins anew.
        if older > 43_200.0 || older <= 0.0 {
            newest = Some(at);
        } else {
            largest = largest.max(older);
        }
    }
    largest
}

fn second_of_day(time: &str) -> f64 {
    let clock = time.trim_end_matches('Z').split_once('T').expect("a date and a time").1;
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a number"))
}

/// The longest time that flows wait for older ones, seconds.
const WATERMARK: f64 = 1.0;

/// Reads until flows of all these nodes have come, and gives what came in between.
fn read_until(lines: &Receiver<Value>, nodes: &[&str], times: &mut Vec<Seen>) {
    let mut missing: BTreeSet<&str> = nodes.iter().copied().collect();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.get("flow").is_some() => {
                let node = line["node_name"].as_str().unwrap_or_default();
                missing.remove(node);
                times.push((node.to_owned(), line["time"].as_str().expect("a time").to_owned()));
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
fn a_client_in_python_sees_at_the_relay_what_it_sees_at_the_nodes() {
    let bed = Bed::new();
    let until = eventually("the nodes have flows", PATIENCE, || {
        let past = now();
        let until = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let seen = bed.ask(&["observe", "-o", "json", "--all", "--until", &past]).lines().count();
        if seen > 400 { Ok(until) } else { Err(seen) }
    });
    let targets = ["relay", "n1", "n2", "n3", "n4"]
        .map(|name| format!("unix:{}", bed.directory.path().join(format!("{name}.sock")).display()));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python = cache.expect("HOME is set").join("specola/venv/bin/python");
    assert!(python.exists(), "{} is missing: run xtask/setup.sh test", python.display());
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/relay_union.py")).arg(until.to_string());
    let said = check(command.args(targets).env("PYTHONDONTWRITEBYTECODE", "1"));
    assert_eq!(said.matches(" flows ok\n").count(), 4, "{said}");
}

#[test]
fn a_follower_goes_on_without_nodes_and_takes_them_back() {
    let mut bed = Bed::new();
    let (_process, lines) = follow(&bed.socket("relay"));
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

/// Four nodes; the clock of n3 is 40 ms ahead, that of n4 five seconds.
fn cluster() -> String {
    let mut text = String::new();
    for (number, node) in NODES.iter().enumerate() {
        let (offset, other) = ([0, 0, 40, 5_000][number], (number + 1) % NODES.len());
        text += &format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, annotations: {{sandbox.specola.io/clock-offset: {offset}ms}}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod{number}\n  namespace: shop\n  annotations:\n    \
             sandbox.specola.io/workload: http-server port=8080; http-client url=http://pod{other}.shop:8080/ rate=20\n\
             spec: {{nodeName: {node}}}\n---\n"
        );
    }
    text
}

/// What a relay says of the nodes, three ways; they must agree.
fn truth(server: &str) -> Result<Vec<(String, bool)>, String> {
    let ask = |command: &[&str]| -> Result<Value, String> {
        let output = Command::new(specola()).args(command).args(["--server", server, "-o", "json"]).output();
        let output = output.map_err(|error| error.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let nodes: Vec<(String, bool)> = ask(&["list", "nodes"])?
        .as_array()
        .ok_or("no list")?
        .iter()
        .map(|node| (node["name"].as_str().unwrap_or_default().to_owned(), node["state"] == "NODE_CONNECTED"))
        .collect();
    let status = ask(&["status"])?["nodes"][0]["server"]["status"].take();
    let number = |name: &str| status[name].as_u64().unwrap_or(u64::MAX);
    let connected = nodes.iter().filter(|(_, is_connected)| *is_connected).count() as u64;
    let away: Vec<_> = nodes.iter().filter(|(_, is_connected)| !is_connected).map(|(name, _)| name).collect();
    let told: Vec<_> = status["unavailable_nodes"].as_array().into_iter().flatten().collect();
    if (number("num_connected_nodes"), told.len()) != (connected, away.len()) || !away.iter().eq(&told) {
        return Err(format!("list says {nodes:?}, status {status}"));
    }
    Ok(nodes)
}

#[test]
fn a_sandbox_with_a_relay_is_one_stream_in_order() {
    let sandbox = Sandbox::up_with("relay", &cluster(), &["--relay"]);
    let ps = sandbox.ps();
    assert_eq!(ps["relay"]["state"], "running", "{ps}");
    let table = check(&mut sandbox.specola(&["sandbox", "ps", "--name", sandbox.name()]));
    assert!(table.contains("RELAY"), "{table}");
    let server = format!("unix://{}", ps["relay"]["socket"].as_str().expect("a socket"));
    let all = |away: &str| -> Vec<(String, bool)> {
        NODES.iter().map(|name| ((*name).to_owned(), *name != away)).collect()
    };
    let wait_truth = |what: &str, away: &str| {
        eventually(what, PATIENCE, || match truth(&server) {
            Ok(seen) if seen == all(away) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    wait_truth("all nodes are connected", "");
    let peers = PeerWatch::start(&ps);
    peers.wait(&NODES);
    // One is away when the follower comes, and joins it.
    sandbox.kill_agent("n1");
    wait_truth("n1 is missed", "n1");
    let (process, lines) = follow(&server);
    let mut times = Vec::new();
    read_until(&lines, &["n2", "n3", "n4"], &mut times);
    sandbox.start_agent("n1");
    for _ in 0..10 {
        read_until(&lines, &NODES, &mut times);
    }
    let largest = largest_inversion(&times, &["n2", "n3"]);
    assert!(largest <= WATERMARK, "{largest} s out of order although one clock is 40 ms ahead");
    // One stands still: its stream is open, and nobody waits for it.
    let stopped = sandbox.agent_pid("n3").expect("n3 runs");
    let signal = |signal: &str| check(Command::new("kill").args([signal, &stopped.to_string()]));
    signal("-STOP");
    for _ in 0..20 {
        read_until(&lines, &["n1", "n2"], &mut times);
    }
    signal("-CONT");
    let largest = largest_inversion(&times, &["n2"]);
    assert!(largest <= WATERMARK, "{largest} s out of order while another node stands still");
    read_until(&lines, &["n3"], &mut times);
    sandbox.kill_agent("n2");
    wait_truth("n2 is missed", "n2");
    read_until(&lines, &["n1", "n3"], &mut times);
    sandbox.start_agent("n2");
    wait_truth("n2 is back", "");
    while lines.try_recv().is_ok() {}
    read_until(&lines, &["n2"], &mut times);
    let said = process.finish();
    assert!(said.contains("n4") && said.contains("the clock is about 5 s ahead"), "{said}");
    assert!(times.len() > 100, "{} flows", times.len());
}

/// `watch peers` at a node.
struct PeerWatch {
    _process: Process,
    lines: Receiver<String>,
}

impl PeerWatch {
    fn start(ps: &Value) -> Self {
        let socket = ps["nodes"][0]["observer_socket"].as_str().expect("a socket");
        let (process, lines) =
            lines(&["watch", "peers", "--server", &format!("unix://{socket}")], |line| Some(line.to_owned()));
        Self { _process: process, lines }
    }

    /// Waits until it has named all of these.
    fn wait(&self, names: &[&str]) {
        let mut missing: BTreeSet<&str> = names.iter().copied().collect();
        while !missing.is_empty() {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no word of {missing:?}"));
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words.first(), Some(&"PEER_ADDED"), "{line}");
            missing.remove(words.get(2).copied().unwrap_or_default());
        }
    }
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
