//! The cases, and the little runner that `harness = false` asks for.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use specola_sandbox::{Connection, Kind, Outcome, Sandbox, UpOptions, read_journal};
use specola_testkit::{eventually, require_root};

const PATIENCE: Duration = Duration::from_secs(20);

const SHOP: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Pod
metadata:
  name: frontend
  namespace: shop
  annotations:
    sandbox.specola.io/workload: >-
      http-client url=http://backend:8080 rate=20; udp-client target=backend.shop:53 rate=20;
      tcp-client target=backend:5432 family=6 rate=20; port-scan target=backend ports=9 rate=5
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata:
  name: backend
  namespace: shop
  annotations: {sandbox.specola.io/workload: http-server port=8080; udp-echo port=53; tcp-echo port=5432}
spec: {nodeName: n2}
---
apiVersion: v1
kind: Pod
metadata: {name: rogue, namespace: other}
";

const CASES: [(&str, fn()); 10] = [
    ("an_agent_that_dies_is_started_again", an_agent_that_dies_is_started_again),
    ("a_demo_ends_with_a_summary", a_demo_ends_with_a_summary),
    ("a_demo_fails_when_something_was_not_seen", a_demo_fails_when_something_was_not_seen),
    ("a_killed_demo_leaves_nothing", a_killed_demo_leaves_nothing),
    ("a_cluster_comes_up_talks_and_leaves_nothing", a_cluster_comes_up_talks_and_leaves_nothing),
    ("journals_of_both_sides_agree", journals_of_both_sides_agree),
    (
        "a_killed_supervisor_is_cleaned_up_by_the_next_command",
        a_killed_supervisor_is_cleaned_up_by_the_next_command,
    ),
    ("a_killed_up_leaves_nothing", a_killed_up_leaves_nothing),
    ("an_agent_that_fails_is_named_with_its_log", an_agent_that_fails_is_named_with_its_log),
    ("pods_and_policies_come_and_go", pods_and_policies_come_and_go),
];

/// Runs the cases whose name holds one of the filters.
pub(crate) fn run_all(arguments: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = arguments.collect();
    if arguments.iter().any(|argument| argument == "--list") {
        CASES.iter().for_each(|(name, _)| eprintln!("{name}: test"));
        return Ok(ExitCode::SUCCESS);
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = Vec::new();
    for (name, case) in CASES {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(case));
        eprintln!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("failed: {}", failed.join(", "))
}

/// A cluster that goes with the case.
struct Running {
    sandbox: Sandbox,
    _files: tempfile::TempDir,
}

impl Running {
    #[track_caller]
    fn up(name: &str, hold: bool) -> Self {
        require_root();
        let (files, file) = cluster_file(SHOP);
        let options = UpOptions { name: Some(format!("case-{name}")), hold, ..UpOptions::new(file) };
        let sandbox = Sandbox::up(&options, |_| {}).unwrap_or_else(|error| panic!("{error:#}"));
        Self { sandbox, _files: files }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(own_path());
        command.arg("sandbox").arg(words[0]).args(["--name", self.sandbox.name()]).args(&words[1..]);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program runs")
    }

    fn journal(&self, pod: &str) -> Vec<Connection> {
        let cluster = self.sandbox.cluster().expect("state");
        let (namespace, name) = pod.split_once('/').expect("namespace/name");
        read_journal(&cluster.pod(namespace, name).expect("pod").journal()).expect("journal")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.sandbox.cluster().is_ok()
            && let Err(error) = self.sandbox.down()
        {
            eprintln!("{} was not taken down: {error:#}", self.sandbox.name());
        }
    }
}

fn cluster_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let files = tempfile::tempdir().expect("a temporary directory");
    let file = files.path().join("cluster.yaml");
    std::fs::write(&file, text).expect("a file");
    (files, file)
}

fn own_path() -> PathBuf {
    std::env::current_exe().expect("a program has a path")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a sandbox could leave: mounts, control groups, pins, processes, files.
fn traces(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if line.contains(name) {
            found.insert(format!("mount {line}"));
        }
        let below = Path::new(fields[1]).join("specola").join(name);
        if matches!(fields[2], "cgroup2" | "bpf") && below.exists() {
            found.insert(below.display().to_string());
        }
    }
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let words = text(&std::fs::read(entry.path().join("cmdline")).unwrap_or_default()).replace('\0', " ");
        if words.contains(name) {
            found.insert(format!("process {words}"));
        }
    }
    for path in [format!("/run/specola/sandbox/{name}"), format!("/run/specola/sandbox/.{name}.lock")] {
        if Path::new(&path).exists() {
            found.insert(path);
        }
    }
    found
}

fn a_cluster_comes_up_talks_and_leaves_nothing() {
    let running = Running::up("up", true);
    let name = running.sandbox.name().to_owned();
    assert!(traces(&name).len() > 10, "the case cannot see a running sandbox");

    let ps: Value = serde_json::from_slice(&running.run(&["ps", "-o", "json"]).stdout).expect("ps is JSON");
    assert_eq!(ps["phase"], "ready");
    assert_eq!(ps["nodes"][1]["addresses"][0], "172.30.0.12");
    let pod =
        |name: &str| ps["pods"].as_array().expect("pods").iter().find(|pod| pod["name"] == name).cloned();
    let backend = pod("backend").expect("backend");
    assert_eq!((&backend["node"], &backend["state"]), (&"n2".into(), &"ready".into()));
    assert_eq!(backend["ips"][0], "10.244.2.10");
    assert_eq!(pod("rogue").expect("rogue")["workload_state"], "idle");

    for url in ["http://backend.shop:8080", "http://[fd00:10:244:2::10]:8080", "http://10.244.2.10:8080"] {
        let curl = running.run(&["exec", "shop/frontend", "--", "curl", "-sS", "-m", "5", url]);
        assert_eq!(text(&curl.stdout), "200 OK from shop/backend\n", "{url}: {curl:?}");
    }
    let shell = running.run(&["exec", "other/rogue", "--", "sh", "-c", "getent hosts backend.shop; exit 7"]);
    assert_eq!(shell.status.code(), Some(7), "{shell:?}");
    assert!(text(&shell.stdout).contains("backend.shop"), "{shell:?}");
    assert_eq!(running.run(&["exec", "other/rogue", "--", "no-such-program"]).status.code(), Some(127));
    let node = running.run(&["exec", "--node", "n1", "--", "ip", "-o", "link"]);
    assert!(text(&node.stdout).contains("lxc1"), "{node:?}");
    assert!(
        text(&running.run(&["exec", "shop/nobody", "--", "true"]).stderr).contains("it has shop/frontend")
    );

    assert!(running.run(&["down"]).status.success());
    assert_eq!(traces(&name), BTreeSet::new());
}

fn journals_of_both_sides_agree() {
    let running = Running::up("journal", true);
    assert!(running.journal("shop/frontend").is_empty(), "clients wait while held");
    running.sandbox.release().expect("release");
    eventually("every kind of connection", PATIENCE, || {
        let made = running.journal("shop/frontend");
        let ports: BTreeSet<u16> = made.iter().map(|made| made.dport).collect();
        if ports == BTreeSet::from([9, 53, 5432, 8080]) && made.len() > 30 {
            Ok(())
        } else {
            Err(format!("{ports:?}"))
        }
    });
    running.sandbox.quiesce().expect("quiesce");
    let tuple =
        |one: &Connection| (one.proto.clone(), one.src.clone(), one.sport, one.dst.clone(), one.dport);
    let made = running.journal("shop/frontend");
    let mut ok: Vec<_> = made.iter().filter(|one| one.result == Outcome::Ok).map(tuple).collect();
    let refused = made.iter().filter(|one| one.result == Outcome::Refused);
    assert!(refused.clone().count() > 0 && refused.clone().all(|one| one.dport == 9), "{made:?}");
    let mut taken = eventually("the server has written its side", PATIENCE, || {
        let taken = running.journal("shop/backend");
        if taken.len() == ok.len() { Ok(taken) } else { Err((taken.len(), ok.len())) }
    });
    assert!(taken.iter().all(|one| one.kind == Kind::Accept && one.result == Outcome::Ok), "{taken:?}");
    taken.sort_by_key(tuple);
    ok.sort();
    assert_eq!(taken.iter().map(tuple).collect::<Vec<_>>(), ok);
    assert_eq!(ok.iter().collect::<BTreeSet<_>>().len(), ok.len(), "no two connections share a tuple");
    assert!(ok.iter().any(|(_, src, ..)| src.contains(':')), "IPv6 was used");
    assert_eq!(running.journal("shop/frontend").len(), made.len(), "nothing more after quiesce");
}

fn a_killed_supervisor_is_cleaned_up_by_the_next_command() {
    let running = Running::up("killed", false);
    let name = running.sandbox.name().to_owned();
    let pid = Pid::from_raw(i32::try_from(running.sandbox.cluster().expect("state").pid).expect("pid"));
    kill(pid, Signal::SIGKILL).expect("the supervisor is ours");
    // This process is its parent and does not reap it, so it stays as a zombie; its lock is gone all the same.
    eventually("the next command cleans up", PATIENCE, || {
        let ps = running.run(&["ps"]);
        if text(&ps.stderr).contains("no sandbox \"case-killed\"") { Ok(()) } else { Err(ps) }
    });
    let left: BTreeSet<_> = traces(&name).into_iter().collect();
    assert_eq!(left, BTreeSet::new());
}

fn a_killed_up_leaves_nothing() {
    require_root();
    let (_files, file) = cluster_file(SHOP);
    let name = "case-interrupted";
    let mut up = Command::new(own_path());
    up.args(["sandbox", "up", "--name", name]).arg(&file).stderr(Stdio::null());
    let mut up = up.spawn().expect("up starts");
    eventually("it has begun", PATIENCE, || if traces(name).len() > 4 { Ok(()) } else { Err(traces(name)) });
    up.kill().expect("up is ours");
    up.wait().expect("up ends");
    eventually(
        "nothing is left",
        PATIENCE,
        || if traces(name).is_empty() { Ok(()) } else { Err(traces(name)) },
    );
}

fn an_agent_that_fails_is_named_with_its_log() {
    require_root();
    let (_files, file) = cluster_file(SHOP);
    let name = "case-failing";
    let options =
        UpOptions { name: Some(name.to_owned()), policy_mode: "always".to_owned(), ..UpOptions::new(&file) };
    let error = Sandbox::up(&options, |_| {}).expect_err("the stand-in refuses").to_string();
    assert!(error.contains("the agent of node n"), "{error}");
    assert!(error.contains("refuses --policy-mode always"), "{error}");
    assert_eq!(traces(name), BTreeSet::new());
}

fn an_agent_that_dies_is_started_again() {
    let running = Running::up("restart", true);
    let node = || running.sandbox.cluster().expect("state").node("n1").expect("node").clone();
    let first = node().pid.expect("it runs");
    kill(Pid::from_raw(i32::try_from(first).expect("pid")), Signal::SIGKILL).expect("the agent is ours");
    eventually("it runs again", PATIENCE, || {
        let node = node();
        if node.restarts == 1 && node.pid.is_some_and(|pid| pid != first) { Ok(()) } else { Err(node.state) }
    });
    eventually("it answers again", PATIENCE, || {
        let ps: Value =
            serde_json::from_slice(&running.run(&["ps", "-o", "json"]).stdout).expect("ps is JSON");
        if ps["nodes"][0]["state"] == "running" { Ok(()) } else { Err(ps["nodes"][0].clone()) }
    });
    assert_eq!(running.sandbox.cluster().expect("state").node("n2").expect("node").restarts, 0);
}

fn pods_and_policies_come_and_go() {
    let running = Running::up("change", false);
    let twice = Sandbox::up(
        &UpOptions { name: Some(running.sandbox.name().to_owned()), ..UpOptions::new(cluster_file(SHOP).1) },
        |_| {},
    );
    assert!(twice.is_err(), "a name is taken once");
    let (_files, file) = cluster_file(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
         endpointSelector: {}\n  ingress: [{}]\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  \
         name: extra\n  namespace: shop\n  annotations: {sandbox.specola.io/workload: http-server port=80}\n",
    );
    let file = file.to_str().expect("text");
    let applied = running.run(&["apply", file]);
    assert_eq!(
        text(&applied.stdout),
        "CiliumNetworkPolicy shop/p added\nPod shop/extra added\n",
        "{}",
        text(&applied.stderr)
    );
    let policy =
        running.sandbox.cluster().expect("state").desired_dir.join("ciliumnetworkpolicy_shop_p.yaml");
    assert!(policy.exists());
    let curl = running.run(&["exec", "shop/frontend", "--", "curl", "-sS", "-m", "5", "http://extra"]);
    assert_eq!(text(&curl.stdout), "200 OK from shop/extra\n", "{curl:?}");
    assert!(text(&running.run(&["apply", file]).stderr).contains("delete it first"));
    let deleted = running.run(&["delete", "pod/shop/extra", "CiliumNetworkPolicy/shop/p"]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(!policy.exists());
    assert!(running.sandbox.cluster().expect("state").pod("shop", "extra").is_none());
    assert!(!running.run(&["delete", "CiliumNetworkPolicy/shop/p"]).status.success(), "it is gone");
}

fn demo(name: &str, seconds: &str) -> (Command, tempfile::TempDir) {
    require_root();
    let (files, file) = cluster_file(SHOP);
    let mut command = Command::new(own_path());
    command.args(["sandbox", "demo", "--name", name, "--seconds", seconds]).arg(file);
    (command, files)
}

fn a_demo_ends_with_a_summary() {
    let (mut demo, _files) = demo("case-demo", "2");
    let output = demo.output().expect("the demo runs");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    for part in ["Try in a second terminal", " -> 10.244.2.10", "FORWARDED", "POLICY_DENIED"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(said.contains("Every connection that the workloads made was observed"), "{said}");
    assert_eq!(traces("case-demo"), BTreeSet::new());
}

fn a_demo_fails_when_something_was_not_seen() {
    let (mut demo, _files) = demo("case-unseen", "1");
    let output = demo.env(crate::observe::HIDE, "8080").output().expect("the demo runs");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DIFFERS: shop/frontend -> shop/backend:8080/TCP"), "{said}");
    assert_eq!(traces("case-unseen"), BTreeSet::new());
}

fn a_killed_demo_leaves_nothing() {
    let (mut demo, _files) = demo("case-demo-killed", "600");
    let mut demo = demo.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the demo starts");
    let journal = Path::new("/run/specola/sandbox/case-demo-killed/pods/shop_frontend/connections.jsonl");
    eventually("traffic", PATIENCE, || match std::fs::metadata(journal).map(|journal| journal.len()) {
        Ok(1..) => Ok(()),
        other => Err(other),
    });
    let observers =
        traces("case-demo-killed").iter().filter(|trace| trace.contains("observe --sandbox")).count();
    assert_eq!(observers, 2, "the case cannot see the demo's own processes");
    demo.kill().expect("the demo is ours");
    demo.wait().expect("the demo ends");
    eventually("nothing is left", PATIENCE, || {
        let left = traces("case-demo-killed");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
