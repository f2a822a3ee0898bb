//! A sandbox cluster that goes when the test ends.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use specola_testkit::{eventually, require_root};

use crate::Flow;

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The `specola` binary under test: `SPECOLA_BIN`, else the one that cargo built beside the test.
///
/// # Panics
/// There is none.
pub fn specola() -> PathBuf {
    if let Some(path) = std::env::var_os("SPECOLA_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.ancestors().nth(2).expect("tests are in target/<profile>/deps").join("specola");
    assert!(path.exists(), "{} is missing: run `cargo build --bin specola` first", path.display());
    path
}

/// A running cluster.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    files: tempfile::TempDir,
}

impl Sandbox {
    /// Starts a cluster from YAML and waits until every pod is ready.
    ///
    /// # Panics
    /// It does not come up.
    #[track_caller]
    pub fn up(name: &str, yaml: &str) -> Self {
        Self::up_with(name, yaml, &[])
    }

    /// [`Sandbox::up`] with further arguments for `specola sandbox up`.
    ///
    /// # Panics
    /// It does not come up.
    #[track_caller]
    pub fn up_with(name: &str, yaml: &str, arguments: &[&str]) -> Self {
        Self::up_in(name, yaml, arguments, &[])
    }

    /// [`Sandbox::up_with`] with environment variables, which its agents inherit.
    ///
    /// # Panics
    /// It does not come up.
    #[track_caller]
    pub fn up_in(name: &str, yaml: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        require_root();
        let files = tempfile::tempdir().expect("a temporary directory");
        let sandbox = Self { name: format!("e2e-{name}"), files };
        let file = sandbox.file("cluster.yaml", yaml);
        let mut command = Command::new(specola());
        command.args(["sandbox", "up"]).arg(&file).args(["--name", &sandbox.name]).args(arguments);
        command.envs(variables.iter().copied());
        check(&mut command);
        sandbox
    }

    /// Name of the sandbox.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a file that lives as long as the sandbox.
    ///
    /// # Panics
    /// It cannot be written.
    #[track_caller]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// A `specola` command about this sandbox; `--name` is left to the caller.
    pub fn specola(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(specola());
        command.args(arguments);
        command
    }

    /// Runs a command in a pod (`namespace/name`).
    ///
    /// # Panics
    /// `specola` itself cannot be started.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Output {
        self.specola(&["sandbox", "exec", "--name", &self.name, pod, "--"])
            .args(command)
            .output()
            .expect("specola starts")
    }

    /// HTTP status that a pod gets from a URL, or curl's exit code as an error.
    ///
    /// # Errors
    /// curl's exit code (28 = timed out, 7 = could not connect) with what it said.
    pub fn http(&self, pod: &str, url: &str) -> Result<u16, (i32, String)> {
        let output = self.exec(
            pod,
            &[
                "curl",
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--connect-timeout",
                "2",
                "-m",
                "5",
                url,
            ],
        );
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => {
                let text = String::from_utf8_lossy(&output.stdout);
                Ok(text.trim().parse().unwrap_or_else(|error| panic!("curl wrote {text:?}: {error}")))
            }
            code => Err((code.unwrap_or(-1), said)),
        }
    }

    /// Adds or replaces objects of the running cluster.
    ///
    /// # Panics
    /// `specola sandbox apply` fails.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let file = self.file("apply.yaml", yaml);
        check(self.specola(&["sandbox", "apply", "--name", &self.name]).arg(file));
    }

    /// Removes an object, `KIND/NAMESPACE/NAME`.
    ///
    /// # Panics
    /// `specola sandbox delete` fails.
    #[track_caller]
    pub fn delete(&self, object: &str) {
        check(&mut self.specola(&["sandbox", "delete", "--name", &self.name, object]));
    }

    /// `specola sandbox ps -o json`.
    ///
    /// # Panics
    /// It fails or is no JSON.
    #[track_caller]
    pub fn ps(&self) -> Value {
        let text = check(&mut self.specola(&["sandbox", "ps", "--name", &self.name, "-o", "json"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Admin socket of a node.
    ///
    /// # Panics
    /// There is no such node.
    #[track_caller]
    pub fn admin_socket(&self, node: &str) -> String {
        let ps = self.ps();
        find(&ps, "nodes", |entry| entry["name"] == node)["admin_socket"]
            .as_str()
            .unwrap_or_else(|| panic!("{node} has no admin socket: {ps}"))
            .to_owned()
    }

    /// Socket of a node's flow API.
    ///
    /// # Panics
    /// There is no such node.
    #[track_caller]
    pub fn observer_socket(&self, node: &str) -> String {
        let ps = self.ps();
        find(&ps, "nodes", |entry| entry["name"] == node)["observer_socket"]
            .as_str()
            .unwrap_or_else(|| panic!("{node} has no observer socket: {ps}"))
            .to_owned()
    }

    /// Network namespace of a pod, to be entered from a test's own thread.
    ///
    /// # Panics
    /// There is no such pod.
    #[track_caller]
    pub fn netns(&self, pod: &str) -> PathBuf {
        let (namespace, name) = pod.split_once('/').expect("pods are namespace/name");
        let ps = self.ps();
        let entry = find(&ps, "pods", |entry| entry["namespace"] == namespace && entry["name"] == name);
        entry["netns"].as_str().unwrap_or_else(|| panic!("{pod} has no netns: {entry}")).into()
    }

    /// Process of a node's agent; none while it is killed.
    ///
    /// # Panics
    /// There is no such node.
    #[track_caller]
    pub fn agent_pid(&self, node: &str) -> Option<i32> {
        let ps = self.ps();
        let pid = find(&ps, "nodes", |entry| entry["name"] == node)["pid"].as_i64();
        pid.map(|pid| i32::try_from(pid).expect("a process id"))
    }

    /// Kills a node's agent with SIGKILL.
    ///
    /// # Panics
    /// `specola sandbox kill` fails.
    #[track_caller]
    pub fn kill_agent(&self, node: &str) {
        check(&mut self.specola(&["sandbox", "kill", "--name", &self.name, "--node", node]));
    }

    /// Starts a node's agent again and waits until it serves.
    ///
    /// # Panics
    /// `specola sandbox start` fails.
    #[track_caller]
    pub fn start_agent(&self, node: &str) {
        check(&mut self.specola(&["sandbox", "start", "--name", &self.name, "--node", node]));
    }

    /// First IP of a pod of the wanted family.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn pod_ip(&self, pod: &str, v6: bool) -> String {
        let (namespace, name) = pod.split_once('/').expect("pods are namespace/name");
        let ps = self.ps();
        let entry = find(&ps, "pods", |entry| entry["namespace"] == namespace && entry["name"] == name);
        let ips = entry["ips"].as_array().unwrap_or_else(|| panic!("{pod} has no ips: {entry}"));
        ips.iter()
            .filter_map(Value::as_str)
            .find(|ip| ip.contains(':') == v6)
            .unwrap_or_else(|| panic!("{pod} has no such address: {entry}"))
            .to_owned()
    }

    /// Flows of all nodes, oldest first, with further `specola observe` arguments.
    ///
    /// # Panics
    /// `specola observe` fails.
    #[track_caller]
    pub fn observe(&self, arguments: &[&str]) -> Vec<Flow> {
        let mut command = self.specola(&["observe", "--sandbox", &self.name, "-o", "json", "--all"]);
        Flow::parse_lines(&check(command.args(arguments)))
    }

    /// Waits until a flow that satisfies `wanted` is seen.
    ///
    /// # Panics
    /// None is seen in time; the message lists what was.
    #[track_caller]
    pub fn wait_flow(&self, what: &str, arguments: &[&str], wanted: impl Fn(&Flow) -> bool) -> Flow {
        eventually(what, PATIENCE, || {
            let flows = self.observe(arguments);
            let seen = summary(&flows);
            flows.into_iter().find(|flow| wanted(flow)).ok_or(seen)
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let mut down = self.specola(&["sandbox", "down", "--name", &self.name]);
        match down.output() {
            Ok(output) if output.status.success() => {}
            other => eprintln!("sandbox {} was not taken down: {other:?}", self.name),
        }
    }
}

impl Sandbox {
    fn print_logs(&self) {
        let Ok(output) = self.specola(&["sandbox", "ps", "--name", &self.name, "-o", "json"]).output() else {
            return;
        };
        let Ok(ps) = serde_json::from_slice::<Value>(&output.stdout) else { return };
        for node in ps["nodes"].as_array().into_iter().flatten() {
            let target = format!("node/{}", node["name"].as_str().unwrap_or_default());
            if let Ok(log) = self.specola(&["sandbox", "logs", "--name", &self.name, &target]).output() {
                eprintln!("--- {target}\n{}", String::from_utf8_lossy(&log.stdout));
            }
        }
    }
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Panics
/// It fails; the message has both outputs.
#[track_caller]
pub fn check(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn summary(flows: &[Flow]) -> String {
    let mut text = format!("{} flows", flows.len());
    for flow in flows.iter().rev().take(20).rev() {
        // Writing to a String cannot fail.
        _ = write!(text, "\n  {}", flow.line());
    }
    text
}

#[track_caller]
fn find<'a>(ps: &'a Value, list: &str, wanted: impl Fn(&Value) -> bool) -> &'a Value {
    ps[list]
        .as_array()
        .and_then(|entries| entries.iter().find(|entry| wanted(entry)))
        .unwrap_or_else(|| panic!("not among {list}: {ps}"))
}
