//! `specola observe` as a process, against a server that follows a script.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use specola_proto::google::Timestamp;
use tokio::runtime::Runtime;
use tonic::Code;

use self::fake::{End, FakeObserver, Script, flow};

mod fake;

/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server and the runtime that it runs on.
struct Server {
    fake: FakeObserver,
    _runtime: Runtime,
}

fn serve(scripts: Vec<Script>) -> Server {
    let runtime = Runtime::new().expect("a runtime starts");
    let fake = runtime.block_on(FakeObserver::start(scripts));
    Server { fake, _runtime: runtime }
}

fn script(answers: &[(i64, &str)], end: End) -> Script {
    Script { answers: answers.iter().map(|(second, name)| flow(*second, name)).collect(), end }
}

fn observe(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specola"));
    command.args(["observe", "--server", &server.fake.address.to_string()]).args(arguments);
    command.env_remove("HUBBLE_SERVER").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the process, and ends it by force when the test takes too long.
fn start(command: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.spawn().expect("specola starts");
    let out = child.stdout.take().expect("its output is piped");
    let (pid, deadline) = (pid(&child), Instant::now() + PATIENCE);
    std::thread::spawn(move || {
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            if kill(pid, None).is_err() {
                return;
            }
        }
        // A process that ended in between is fine.
        let (Ok(()) | Err(_)) = kill(pid, Signal::SIGKILL);
    });
    (child, BufReader::new(out))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"))
}

fn read_line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).expect("specola writes text");
    line.trim_end().to_owned()
}

/// Waits for the end of the process, but not for ever.
fn ended(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("the child can be killed");
            panic!("specola does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stderr(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut text).expect("specola writes text");
    text
}

fn interrupt(child: &Child) {
    kill(pid(child), Signal::SIGINT).expect("the child can be signaled");
}

fn line(second: i64, name: &str) -> String {
    format!("Jan  1 00:00:{second:02}.000:  (unknown) <>  (unknown) UNKNOWN DROPPED ({name})")
}

#[test]
fn the_past_is_printed_and_ends_with_success() {
    let server = serve(vec![script(&[(1, "a"), (2, "b")], End::Done)]);
    let output = observe(&server, &["--last", "2"]).output().expect("specola runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n{}\n", line(1, "a"), line(2, "b")));
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(server.fake.requests()[0].number, 2);
}

#[test]
fn the_server_may_come_from_the_environment() {
    let server = serve(vec![script(&[(1, "a")], End::Done)]);
    let output = Command::new(env!("CARGO_BIN_EXE_specola"))
        .arg("observe")
        .env("HUBBLE_SERVER", server.fake.address.to_string())
        .output()
        .expect("specola runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", line(1, "a")));
}

#[test]
fn a_refused_request_is_an_error() {
    for (code, text, said) in [
        (Code::InvalidArgument, "field source_fqdn is not supported", "InvalidArgument: field source_fqdn"),
        (Code::Unknown, "invalid fieldmask", ": invalid fieldmask\n"),
    ] {
        for arguments in [&["--all"][..], &["--follow"]] {
            let server = serve(vec![script(&[], End::Error(code, text))]);
            let output = observe(&server, arguments).output().expect("specola runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.starts_with("error: 127.0.0.1:") && stderr.contains(said), "{stderr}");
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(server.fake.requests().len(), 1, "a refusal is not repeated");
        }
    }
}

#[test]
fn a_broken_stream_of_the_past_is_an_error_after_what_came() {
    let server = serve(vec![script(&[(1, "a")], End::Error(Code::Unavailable, "going away"))]);
    let output = observe(&server, &[]).output().expect("specola runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", line(1, "a")));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Unavailable: going away"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn no_server_is_an_error_that_says_what_to_do() {
    let server = serve(Vec::new());
    let mut command = observe(&server, &["--follow"]);
    drop(server);
    let output = command.output().expect("specola runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("error: cannot connect to 127.0.0.1:"), "{stderr}");
    assert!(stderr.contains("see that the server runs"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_follower_goes_on_after_a_lost_connection_without_repeats() {
    let server = serve(vec![
        script(&[(1, "a"), (2, "b"), (2, "c")], End::Error(Code::Unavailable, "going away")),
        script(&[(2, "b"), (2, "c"), (2, "d"), (3, "e")], End::Done),
        script(&[(3, "e"), (4, "f")], End::Open),
    ]);
    let (mut child, mut out) = start(&mut observe(&server, &["--follow", "--last", "9"]));
    for (second, name) in [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (3, "e"), (4, "f")] {
        assert_eq!(read_line(&mut out), line(second, name));
    }
    interrupt(&child);
    assert_eq!(ended(&mut child).code(), Some(0), "Ctrl-C is how a follower ends");
    let name = server.fake.address;
    assert_eq!(
        stderr(&mut child),
        format!(
            "{name}: connection lost (Unavailable: going away); trying again\n{name}: connected again\n\
             {name}: connection lost (the server ended the stream); trying again\n{name}: connected again\n"
        )
    );
    let requests = server.fake.requests();
    let asked: Vec<_> = requests.iter().map(|request| (request.number, request.since)).collect();
    let since = |seconds| Some(Timestamp { seconds, nanos: 0 });
    assert_eq!(asked, [(9, None), (0, since(1)), (0, since(1))]);
}

#[test]
fn a_follower_waits_for_a_server_that_went_away() {
    let server = serve(vec![script(&[(1, "a")], End::Error(Code::Unavailable, "going away"))]);
    let (mut child, mut out) = start(&mut observe(&server, &["--follow"]));
    assert_eq!(read_line(&mut out), line(1, "a"));
    // Without a script each attempt is refused as unavailable.
    let deadline = Instant::now() + PATIENCE;
    while server.fake.requests().len() < 3 {
        assert!(Instant::now() < deadline, "it does not try again");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    assert_eq!(ended(&mut child).code(), Some(0));
    let said = stderr(&mut child);
    assert_eq!(said.matches("connection lost").count(), 1, "one loss is said once: {said}");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for (arguments, end) in
        [(&["--all"][..], End::Again), (&["--follow"], End::Again), (&["--follow"], End::Open)]
    {
        let server = serve(vec![script(&[(1, "a"), (2, "b")], end)]);
        let (mut child, mut out) = start(&mut observe(&server, arguments));
        assert_eq!(read_line(&mut out), line(1, "a"));
        drop(out);
        assert_eq!(ended(&mut child).code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&mut child), "", "{arguments:?}");
    }
}

#[test]
fn an_interrupted_reader_of_the_past_says_so_by_its_exit_code() {
    let server = serve(vec![script(&[(1, "a")], End::Open)]);
    let (mut child, mut out) = start(&mut observe(&server, &["--all"]));
    // Nothing is flushed before the end; the request shows that it is under way.
    let deadline = Instant::now() + PATIENCE;
    while server.fake.requests().is_empty() {
        assert!(Instant::now() < deadline, "it does not ask");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    assert_eq!(ended(&mut child).code(), Some(130));
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert!(rest.is_empty() || rest == format!("{}\n", line(1, "a")), "{rest}");
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let server = serve(Vec::new());
    for arguments in
        [&["--verdict", "nope"][..], &["--first", "1", "--last", "1"], &["--not"], &["--no-such-flag"]]
    {
        let output = observe(&server, arguments).output().expect("specola runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
    let tls = Command::new(env!("CARGO_BIN_EXE_specola"))
        .args(["observe", "--tls", "--server", "unix:///no/such.sock"])
        .output()
        .expect("specola runs");
    assert_eq!(tls.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&tls.stderr).contains("a unix socket has no TLS"));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(env!("CARGO_BIN_EXE_specola")).args(["completion", shell]).output();
        let output = output.expect("specola runs");
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(script.contains("observe") && script.contains("drop-reason-desc"), "{shell}");
    }
}
