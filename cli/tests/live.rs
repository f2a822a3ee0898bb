//! `specola observe --aggregate` on a terminal (tmux) and without one, against a server that follows a script.
#![forbid(unsafe_code)]

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use specola_proto::flow::{CiliumEventType, Endpoint, Flow, Ip, Layer4, Tcp, Verdict, layer4};
use specola_proto::google::{Any, Timestamp};
use specola_proto::observer::GetFlowsResponse;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::specola::v1::FlowExtension;
use tokio::runtime::Runtime;

use self::fake::{End, FakeObserver, Script};

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "observe/fake.rs"]
mod fake;

/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A flow from a pod of the namespace `shop` to `shop/db`, whose connection has carried these bytes.
fn flow(pod: &str, verdict: Verdict, bytes: u64) -> GetFlowsResponse {
    let end =
        |name: &str| Endpoint { namespace: "shop".into(), pod_name: name.into(), ..Endpoint::default() };
    let extension = FlowExtension {
        has_counters: bytes > 0,
        packets_forward: 9,
        bytes_forward: bytes,
        ..Default::default()
    };
    let tcp = Tcp { source_port: 40_000, destination_port: 5432, flags: None };
    let event = if verdict == Verdict::Dropped { 1 } else { 4 };
    let flow = Flow {
        time: Some(Timestamp { seconds: 1, nanos: 0 }),
        verdict: verdict.into(),
        ip: Some(Ip { source: format!("ip-of-{pod}"), destination: "10.0.0.2".into(), ..Ip::default() }),
        l4: Some(Layer4 { protocol: Some(layer4::Protocol::Tcp(tcp)) }),
        source: Some(end(pod)),
        destination: Some(end("db")),
        event_type: Some(CiliumEventType { r#type: event, sub_type: 0 }),
        is_reply: Some(false),
        summary: format!("about {pod}"),
        extensions: Some(Any::pack(&extension)),
        ..Flow::default()
    };
    GetFlowsResponse {
        time: flow.time,
        response_types: Some(ResponseTypes::Flow(flow)),
        ..Default::default()
    }
}

fn serve(end: End) -> (Runtime, FakeObserver) {
    let answers = vec![
        flow("web", Verdict::Forwarded, 5_000),
        flow("admin", Verdict::Dropped, 0),
        flow("admin", Verdict::Dropped, 0),
        flow("batch", Verdict::Forwarded, 90_000),
    ];
    let runtime = Runtime::new().expect("a runtime starts");
    let fake = runtime.block_on(FakeObserver::start([Script { answers, end }]));
    (runtime, fake)
}

/// A terminal with the program in it; afterwards the terminal says its exit code.
struct Terminal {
    server: String,
}

impl Terminal {
    fn open(name: &str, arguments: &str) -> Self {
        let terminal = Self { server: format!("specola-test-{name}-{}", std::process::id()) };
        let program = env!("CARGO_BIN_EXE_specola");
        let command = format!("{program} observe --aggregate {arguments}; echo ended with $?; exec cat");
        terminal.tmux(&["new-session", "-d", "-s", "t", "-x", "120", "-y", "24", &command]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.server, "-f", "/dev/null"]).args(arguments);
        command.env_remove("TMUX").env("TERM", "xterm-256color").stdin(Stdio::null());
        let Output { status, stdout, stderr } =
            command.output().expect("tmux runs; xtask/setup.sh installs it");
        assert!(status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "t"], keys].concat());
    }

    /// Waits for a screen that is as described.
    fn shows(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen never shows {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for rows of these pods, in this order.
    fn lists(&self, pods: &[&str]) -> String {
        self.shows(&format!("{pods:?}"), |screen| {
            let rows = screen.lines().filter_map(|line| line.strip_prefix("shop/"));
            let shown: Vec<_> = rows.filter_map(|row| row.split_whitespace().next()).collect();
            shown == pods
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A server that is gone already is as good.
        let _ended = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

#[test]
fn the_live_view_shows_sorts_filters_pauses_and_looks_inside() {
    let (_runtime, server) = serve(End::Open);
    let terminal = Terminal::open("keys", &format!("--interval 100ms --server {}", server.address));
    let screen = terminal.lists(&["batch", "web", "admin"]);
    let row = |pod: &str| {
        let line =
            screen.lines().find(|line| line.starts_with(&format!("shop/{pod} "))).expect("it is there");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("admin")[1..4], ["shop/db", "tcp/5432", "DROPPED"]);
    assert_eq!(row("admin")[8..], ["2", "2", "0", "B"]);
    assert_eq!(row("batch")[8..], ["1", "0", "87.8", "KiB"]);
    assert!(screen.contains("3 pairs, sorted by bytes/s") && screen.contains("4 flows, 2 dropped, 92.7 KiB"));
    terminal.press(&["n"]);
    terminal.lists(&["admin", "batch", "web"]);
    terminal.press(&["r"]);
    terminal.lists(&["web", "batch", "admin"]);
    terminal.press(&["/", "d", "r", "o", "p", "Enter"]);
    let filtered = terminal.shows("the whole filter", |screen| screen.contains("filter: drop  (Esc"));
    assert!(filtered.contains("2 hidden by the filter"), "{filtered}");
    terminal.lists(&["admin"]);
    terminal.press(&["Enter"]);
    terminal.shows("the flows of the row", |screen| {
        screen.contains("shop/admin -> shop/db tcp/5432")
            && screen.matches("DROPPED (about admin)").count() == 2
    });
    terminal.press(&["Escape"]);
    terminal.lists(&["admin"]);
    terminal.press(&["Escape"]);
    terminal.lists(&["web", "batch", "admin"]);
    terminal.press(&["p"]);
    terminal.shows("that it is paused", |screen| screen.contains("PAUSED"));
    terminal.press(&["c"]);
    terminal.press(&["?"]);
    terminal.shows("the help", |screen| screen.contains("sort by the next column"));
    terminal.press(&["x"]);
    terminal.lists(&["web", "batch", "admin"]);
    terminal.press(&["p"]);
    terminal.lists(&[]);
    terminal.press(&["q"]);
    let end = terminal.shows("the end", |screen| screen.contains("ended with 0"));
    assert!(!end.contains("pairs, sorted"), "the terminal is as before: {end}");
}

#[test]
fn the_live_view_fits_other_sizes_and_ends_by_a_signal() {
    let (_runtime, server) = serve(End::Open);
    let terminal = Terminal::open("size", &format!("--interval 100ms --server {}", server.address));
    terminal.lists(&["batch", "web", "admin"]);
    for (columns, lines) in [("40", "6"), ("10", "3"), ("200", "50"), ("120", "24")] {
        terminal.tmux(&["resize-window", "-t", "t", "-x", columns, "-y", lines]);
        terminal.shows("something", |screen| screen.contains("3 pairs"));
    }
    terminal.lists(&["batch", "web", "admin"]);
    terminal.press(&["C-c"]);
    terminal.shows("the end", |screen| screen.contains("ended with 0"));
}

#[test]
fn an_error_is_on_the_terminal_as_it_was_before() {
    let (runtime, server) = serve(End::Open);
    let address = server.address;
    drop((server, runtime));
    let terminal = Terminal::open("error", &format!("--server {address}"));
    let screen = terminal.shows("the end", |screen| screen.contains("ended with 1"));
    assert!(screen.contains(&format!("error: cannot connect to {address}")), "{screen}");
}

#[test]
fn without_a_terminal_there_are_tables() {
    let (_runtime, server) = serve(End::Done);
    let (mut command, specola) = (Command::new("timeout"), env!("CARGO_BIN_EXE_specola"));
    let patience = PATIENCE.as_secs().to_string();
    command.args([
        &patience,
        specola,
        "hubble",
        "observe",
        "--aggregate",
        "--server",
        &server.address.to_string(),
    ]);
    // Under this name it ends with the server's stream.
    let output = command.stdin(Stdio::null()).output().expect("specola runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(": ") && text.contains("4 flows, 2 dropped, "), "{text}");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("shop/")).collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}
