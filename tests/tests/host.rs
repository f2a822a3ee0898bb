//! Host mode: a machine's own connections are seen, and governed where it is asked for, without an agent too.

use std::net::TcpStream;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use specola_datapath::probe;
use specola_testkit::eventually;
use specola_tests::host::{MACHINE, PEER, PORT, connect, serve, talks};
use specola_tests::sandbox::PATIENCE;
use specola_tests::{Flow, Host, Witness};

const DENY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: closed}
spec:
  nodeSelector: {matchLabels: {role: web}}
  ingressDeny:
  - fromEntities: [all]
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
";

const LATER_DENY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: later}
spec:
  nodeSelector: {matchLabels: {role: web}}
  ingressDeny:
  - fromEntities: [world]
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
";

const FIREWALL: [&str; 3] = ["--host-firewall", "--node-label", "role=web"];

/// Whether the flow is the first packet of a connection at an observation point.
fn opens(flow: &Flow, point: &str) -> bool {
    flow.text("/trace_observation_point") == point && flow.text("/trace_reason") == "NEW"
}

fn programs(host: &Host) -> Vec<String> {
    host.programs(|device| {
        let found = probe::tcx_programs(device).expect("root may look").unwrap_or_default();
        found.into_iter().map(|program| program.name).collect()
    })
}

#[track_caller]
fn assert_open(host: &Host, what: &str) {
    for address in MACHINE {
        let mut stream = host.connect(address).unwrap_or_else(|error| panic!("{what}: {address}: {error}"));
        assert!(talks(&mut stream), "{what}: {address}");
    }
}

#[track_caller]
fn assert_closed(host: &Host, what: &str) {
    for address in MACHINE {
        let error = host.connect(address).err().unwrap_or_else(|| panic!("{what}: {address} is open"));
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{what}: {address}: {error}");
    }
}

#[track_caller]
fn assert_alive(sessions: &mut [TcpStream], what: &str) {
    for session in sessions {
        assert!(talks(session), "{what}: {session:?} was cut");
    }
}

#[test]
fn every_connection_is_seen_as_the_witness_sees_it() {
    let mut host = Host::new("seen");
    host.serve();
    serve(&host.peer);
    host.start("auto", &[]);
    let syn = |way: &str, family: &str| {
        format!("meta nfproto {family} tcp {way} {PORT} tcp flags & (syn|ack) == syn")
    };
    let (four, six) = (syn("dport", "ipv4"), syn("dport", "ipv6"));
    let counters = [("four", four.as_str()), ("six", six.as_str())];
    let netns = || host.machine.path().to_owned();
    let incoming = Witness::new(netns(), "input", &counters);
    let outgoing = Witness::new(netns(), "output", &counters);
    for _ in 0..40 {
        assert_open(&host, "nothing is enforced");
        for address in PEER {
            let mut stream = connect(&host.machine, address).expect("the peer answers");
            assert!(talks(&mut stream), "{address}");
        }
    }
    let seen = |point: &str, ipv6: bool| {
        let flows = host.flows(&["--type", "trace", "--protocol", "tcp"]);
        let of_family = |flow: &&Flow| flow.text("/IP/source").contains(':') == ipv6;
        flows.iter().filter(of_family).filter(|flow| opens(flow, point)).count() as u64
    };
    for (witness, point) in [(&incoming, "TO_HOST"), (&outgoing, "TO_NETWORK")] {
        for (name, ipv6) in [("four", false), ("six", true)] {
            let counted = witness.packets(name);
            assert!(counted >= 40, "the witness missed connections: {counted}");
            eventually(&format!("{point} {name}"), PATIENCE, || match seen(point, ipv6) {
                count if count == counted => Ok(()),
                count => Err(format!("{count} of {counted}")),
            });
            eprintln!("{point} {name}: {counted} connections counted by nft, all seen");
        }
    }
    let first = host.flows(&["--type", "trace"]).into_iter().find(|flow| opens(flow, "TO_HOST"));
    let first = first.expect("an incoming connection");
    assert_eq!(first.direction(), "INGRESS", "{}", first.json());
    assert_eq!(first.json()["destination"]["identity"], 1, "{}", first.json());
}

#[test]
fn a_deny_blocks_what_is_new_and_leaves_what_was_open() {
    let mut host = Host::new("deny");
    host.serve();
    let mut sessions = MACHINE.map(|address| host.connect(address).expect("nothing is enforced yet"));
    assert_alive(&mut sessions, "before the agent");
    host.policy("closed.yaml", DENY);
    host.start("eth0", &FIREWALL);
    assert!(host.host_policy("status").contains("host policy: enforced"), "{}", host.host_policy("status"));

    assert_closed(&host, "the policy is in force");
    assert_alive(&mut sessions, "the policy is in force");
    let denied = eventually("denied flows of both families", PATIENCE, || {
        let flows = host.flows(&["--type", "policy-verdict", "--verdict", "DROPPED"]);
        let (six, four): (Vec<Flow>, Vec<Flow>) =
            flows.into_iter().partition(|flow| flow.text("/IP/source").contains(':'));
        if six.is_empty() || four.is_empty() {
            Err((six.len(), four.len()))
        } else {
            Ok([four, six].concat())
        }
    });
    for flow in denied {
        assert_eq!(flow.policies("ingress_denied_by"), ["closed"], "{}", flow.json());
        assert_eq!(flow.destination_port(), u64::from(PORT), "{}", flow.json());
    }
    let ports =
        sessions.each_ref().map(|session| u64::from(session.local_addr().expect("an address").port()));
    let of_session = |flow: &Flow| {
        let source = flow.json().pointer("/l4/TCP/source_port").and_then(serde_json::Value::as_u64);
        source.is_some_and(|port| ports.contains(&port))
    };
    let flows = host.flows(&[]);
    let counted_as_new: Vec<String> = flows
        .iter()
        .filter(|flow| of_session(flow) && (opens(flow, "TO_HOST") || flow.event_type() == 5))
        .map(Flow::line)
        .collect();
    assert!(flows.iter().any(of_session), "the sessions are seen");
    assert!(counted_as_new.is_empty(), "{counted_as_new:?}");

    host.kill();
    assert_closed(&host, "no agent runs");
    assert_alive(&mut sessions, "no agent runs");

    host.host_policy("panic-off");
    assert_open(&host, "panic-off without an agent");
    host.start("eth0", &FIREWALL);
    assert_open(&host, "an agent after panic-off");
    assert!(host.host_policy("status").contains("off (panic-off)"), "{}", host.host_policy("status"));
    host.host_policy("panic-on");
    assert_closed(&host, "panic-on");
    assert_alive(&mut sessions, "after a restart of the agent");

    host.policy("later.yaml", LATER_DENY);
    for session in &mut sessions {
        eventually("a deny that came later ends the session", PATIENCE, || {
            if talks(session) { Err("it goes on") } else { Ok(()) }
        });
    }
}

#[test]
fn a_policy_alone_changes_nothing_and_audit_only_tells() {
    let mut host = Host::new("audit");
    host.serve();
    host.policy("closed.yaml", DENY);
    host.start("eth0", &["--node-label", "role=web"]);
    assert_open(&host, "no --host-firewall");
    assert!(host.host_policy("status").contains("no policy governs"), "{}", host.host_policy("status"));
    host.kill();
    host.start("eth0", &["--node-label", "role=web", "--host-firewall", "--host-audit"]);
    assert_open(&host, "audit");
    let audited = eventually("an audited flow", PATIENCE, || {
        let flows = host.flows(&["--verdict", "AUDIT"]);
        flows.into_iter().next().ok_or_else(|| host.host_policy("status"))
    });
    assert_eq!(audited.destination_port(), u64::from(PORT), "{}", audited.json());
    host.kill();
    host.start("eth0", &["--node-label", "role=mail", "--host-firewall"]);
    assert_open(&host, "the policy selects another node");
}

/// `specola observe --attach eth0` with its output in a pipe.
fn attach(host: &Host) -> Child {
    let mut command = host.command(&["observe", "--attach", "eth0", "-o", "json", "--type", "trace"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter starts")
}

/// Makes connections until the command has printed the first packet of one.
fn wait_for_flow(
    host: &Host,
    child: &mut Child,
) -> std::io::Lines<std::io::BufReader<std::process::ChildStdout>> {
    use std::io::BufRead;
    let (sender, seen) = std::sync::mpsc::sync_channel(1);
    let output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let reader = std::thread::spawn(move || {
        let mut lines = output.lines();
        while let Some(Ok(line)) = lines.next() {
            let flows = Flow::parse_lines(&line);
            if flows.iter().any(|flow| opens(flow, "TO_HOST") && flow.destination_port() == u64::from(PORT)) {
                sender.send(()).expect("somebody waits");
                break;
            }
        }
        lines
    });
    eventually("a flow of the device", PATIENCE, || {
        assert_open(host, "observe --attach only looks");
        seen.try_recv()
    });
    reader.join().expect("the reader ends")
}

/// What is mounted where the command has mounts of its own. (Other tests mount elsewhere meanwhile.)
fn mounts() -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let at = |line: &&str| line.split(' ').nth(1).is_some_and(|point| point.starts_with("/sys/fs/bpf"));
    all.lines().filter(at).map(str::to_owned).collect()
}

#[test]
fn a_look_without_an_agent_leaves_nothing_behind() {
    let mut host = Host::new("look");
    host.serve();
    let before = mounts();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut child = attach(&host);
        let lines = wait_for_flow(&host, &mut child);
        assert_eq!(programs(&host).len(), 2, "{signal}: the programs are at work");
        kill(Pid::from_raw(child.id().try_into().expect("a pid")), signal).expect("a child of ours");
        let status = child.wait().expect("a child of ours");
        assert_eq!(status.success(), signal == Signal::SIGINT, "{status}");
        drop(lines);
        eventually(&format!("{signal}: programs are gone"), PATIENCE, || match programs(&host) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
        assert_eq!(mounts(), before, "{signal}");
    }
    // Nobody reads any more: the next flow ends it.
    let mut child = attach(&host);
    drop(wait_for_flow(&host, &mut child));
    eventually("the command ends with its reader", PATIENCE, || {
        assert_open(&host, "observe --attach only looks");
        child.try_wait().expect("a child of ours").ok_or("it runs")
    });
    assert_eq!(programs(&host), Vec::<String>::new());

    host.start("eth0", &[]);
    let output = host.command(&["observe", "--attach", "eth0"]).output().expect("nsenter starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("attached to eth0 already"), "{said}");
    assert_eq!(programs(&host).len(), 2, "the agent's are left alone");
}
