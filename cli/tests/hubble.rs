//! The program under the name `hubble`, and settings out of the environment and the configuration file.
#![forbid(unsafe_code)]

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tokio::runtime::Runtime;
use tonic::Code;

use self::fake::{End, FakeObserver, Script, flow};

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "observe/fake.rs"]
mod fake;

/// A home directory with a link to the program.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        symlink(env!("CARGO_BIN_EXE_specola"), dir.path().join("hubble")).expect("a link");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, program: PathBuf, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        command.stdin(Stdio::null());
        command
    }

    fn hubble(&self, arguments: &[&str]) -> Command {
        self.command(self.path("hubble"), arguments)
    }

    fn specola(&self, arguments: &[&str]) -> Command {
        self.command(PathBuf::from(env!("CARGO_BIN_EXE_specola")), arguments)
    }
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes text");
    (status.code(), text(stdout), text(stderr))
}

fn serve(scripts: Vec<Script>) -> (Runtime, FakeObserver) {
    let runtime = Runtime::new().expect("a runtime starts");
    let fake = runtime.block_on(FakeObserver::start(scripts));
    (runtime, fake)
}

fn one(name: &str, end: End) -> Script {
    Script { answers: vec![flow(1, name)], end }
}

#[test]
fn a_link_called_hubble_is_hubble() {
    let home = Home::new();
    for mut command in [home.hubble(&["version"]), home.specola(&["hubble", "version"])] {
        let (code, out, err) = run(&mut command);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with("hubble ") && out.contains(" compiled with rust"), "{out}");
    }
    let (code, out, _) = run(&mut home.hubble(&["--help"]));
    assert_eq!(code, Some(0));
    for command in ["config", "list", "observe", "status", "version", "completion"] {
        assert!(out.contains(&format!("\n  {command} ")), "{out}");
    }
    assert!(!out.contains("\n  sandbox ") && !out.contains("\n  watch "), "{out}");
}

#[test]
fn any_error_of_hubble_is_one_line_and_exit_code_1() {
    let home = Home::new();
    for (arguments, says) in [
        (&["record"][..], "unknown command \"record\" for \"hubble\"\n"),
        (&["observe", "--nope"], "unknown flag: --nope\n"),
        (&["observe", "--first", "1", "--last", "1"], "cannot set both --first and --last\n"),
        (&["observe", "--follow", "--not"], "trailing --not found in the arguments\n"),
        (&["config", "get", "nope"], "unknown key: nope\n"),
        (
            &["status", "--tls-client-cert-file", "x"],
            "invalid flag(s): certificate and private key are both required, but only one was provided\n",
        ),
    ] {
        assert_eq!(run(&mut home.hubble(arguments)), (Some(1), String::new(), says.to_owned()));
    }
    let (code, _, err) = run(&mut home.hubble(&["status", "--timeout", "100ms"]));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("failed getting status: cannot connect to localhost:4245"), "{err}");
}

#[test]
fn hubble_asks_as_hubble_does() {
    let home = Home::new();
    let (_runtime, server) =
        serve(vec![one("a", End::Done), one("a", End::Error(Code::Unavailable, "gone"))]);
    let address = server.address.to_string();
    let (code, out, err) = run(home.hubble(&["observe", "--last", "1"]).env("HUBBLE_SERVER", &address));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, "Jan  1 00:00:01.000:  (unknown) <>  (unknown) UNKNOWN DROPPED (a)\n");
    let request = &server.requests()[0];
    assert!(request.extensions.is_none(), "nothing that Hubble's servers do not know");
    let mask = request.field_mask.as_ref().expect("text forms ask for what they show");
    assert!(!mask.paths.iter().any(|path| path == "extensions"));
    // A follower gives up where Specola's own client tries again.
    let (code, _, err) = run(&mut home.hubble(&["--server", &address, "observe", "-f"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("Unavailable: gone"), "{err}");
}

#[test]
fn old_json_has_nothing_around_the_flow() {
    let home = Home::new();
    let (_runtime, server) = serve(vec![one("a", End::Done), one("b", End::Done)]);
    let address = server.address.to_string();
    let mut command = home.hubble(&["observe", "-o", "json", "--server", &address]);
    let (_, out, _) = run(command.env("HUBBLE_COMPAT", "legacy-json-output"));
    assert!(out.starts_with("{\"time\":\"1970-01-01T00:00:01Z\",\"uuid\":\"a\","), "{out}");
    let (_, out, _) = run(command.env_remove("HUBBLE_COMPAT"));
    assert!(out.starts_with("{\"flow\":{\"time\""), "{out}");
}

#[test]
fn settings_come_from_flags_environment_file_and_defaults() {
    let home = Home::new();
    let server = |command: &mut Command| {
        let (code, out, err) = run(command);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        out.trim_end().to_owned()
    };
    let get = ["config", "get", "server"];
    assert_eq!(server(&mut home.hubble(&get)), "localhost:4245");
    assert_eq!(server(&mut home.specola(&get)), "");
    assert_eq!(run(&mut home.hubble(&["config", "set", "server", "relay:80"])).0, Some(0));
    let file = home.path(".config/hubble/config.yaml");
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "server: relay:80\n");
    assert_eq!(server(&mut home.hubble(&get)), "relay:80");
    assert_eq!(server(&mut home.specola(&get)), "", "it has a file of its own");
    assert_eq!(server(home.hubble(&get).env("HUBBLE_SERVER", "other:1")), "other:1");
    assert_eq!(server(home.specola(&get).env("HUBBLE_SERVER", "b:1").env("SPECOLA_SERVER", "a:1")), "a:1");
    let named = home.path("named.yaml").display().to_string();
    assert_eq!(run(&mut home.hubble(&["config", "set", "tls", "true", "--config", &named])).0, Some(0));
    let (_, out, _) = run(&mut home.hubble(&["--config", &named, "config", "view"]));
    assert!(out.starts_with("allowlist: []\nbasic-auth-password: \"\"\n"), "{out}");
    for line in ["tls: true\n", "port-forward-port: \"4245\"\n", "request-timeout: 12s\n"] {
        assert!(out.contains(line), "{out}");
    }
    assert_eq!(run(&mut home.hubble(&["config", "reset", "server"])).0, Some(0));
    assert_eq!(server(&mut home.hubble(&get)), "localhost:4245");
}

#[test]
fn a_wrong_setting_is_named() {
    let home = Home::new();
    let (code, _, err) = run(home.specola(&["list", "nodes"]).env("HUBBLE_TIMEOUT", "soon"));
    assert_eq!(code, Some(2));
    assert_eq!(err, "error: HUBBLE_TIMEOUT: \"soon\" is no duration; use one such as 5s\n");
    std::fs::write(home.path("broken.yaml"), "[").expect("written");
    let (code, _, err) = run(&mut home.specola(&["list", "nodes", "--config", "broken.yaml"]));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: cannot read the configuration broken.yaml"), "{err}");
}

#[test]
fn a_setting_is_the_default_of_its_flag() {
    let home = Home::new();
    let (_runtime, server) = serve(vec![one("a", End::Done), one("b", End::Done)]);
    let file = home.path("c.yaml").display().to_string();
    let text = format!("server: {}\nallowlist: ['{{\"source_pod\":[\"a\"]}}']\n", server.address);
    std::fs::write(&file, text).expect("written");
    assert_eq!(run(&mut home.specola(&["observe", "--config", &file])).0, Some(0));
    assert_eq!(server.requests()[0].whitelist[0].source_pod, ["a"]);
    let other = run(&mut home.specola(&["observe", "--config", &file, "--allowlist", "{\"uuid\":[\"u\"]}"]));
    assert_eq!(other.0, Some(0));
    let request = &server.requests()[1];
    assert_eq!((request.whitelist.len(), request.whitelist[0].uuid.as_slice()), (1, &["u".to_owned()][..]));
}

#[test]
fn a_relay_in_kubernetes_is_reached_through_kubectl() {
    let home = Home::new();
    let (_runtime, server) = serve(vec![one("a", End::Done)]);
    let script = "#!/bin/sh\necho \"$@\" >> \"$HOME/calls\"\ncase \"$*\" in\n*jsonpath*) echo 80;;\n\
                  *) echo $$ > \"$HOME/pid\"; echo \"Forwarding from $RELAY -> 4245\"; exec sleep 600;;\nesac\n";
    let kubectl = home.path("kubectl");
    std::fs::write(&kubectl, script).expect("written");
    std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a program");
    let path = format!("{}:/usr/bin:/bin", home.0.path().display());
    let mut command = home.hubble(&["observe", "-P", "--port-forward-port", "0", "--kube-context", "lab"]);
    let (code, out, err) = run(command.env("PATH", &path).env("RELAY", server.address.to_string()));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.ends_with("DROPPED (a)\n"), "{out}");
    let calls = std::fs::read_to_string(home.path("calls")).expect("it was called");
    assert_eq!(
        calls,
        "--namespace kube-system --context lab get service hubble-relay -o jsonpath={.spec.ports[0].port}\n\
         --namespace kube-system --context lab port-forward --address 127.0.0.1 service/hubble-relay 0:80\n"
    );
    let pid = std::fs::read_to_string(home.path("pid")).expect("it ran");
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "it ends with the command");
    let (code, _, err) = run(home.hubble(&["status", "-P"]).env("PATH", "/nonexistent"));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("cannot run kubectl; install it"), "{err}");
}
