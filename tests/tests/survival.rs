//! Agents that are killed: what runs goes on, what is closed stays closed, and the next agent knows it all.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use fixtures::{ALLOW_CLIENTS, CLUSTER, DENY_ALL, yaml};
use serde_json::Value;
use specola_testkit::{eventually, netns};
use specola_tests::sandbox::{PATIENCE, check};
use specola_tests::{Books, Sandbox, Witness};

/// Ingress to the server from the clients: HTTP, a transfer, an own connection. 8081 is closed.
const ALLOW_PORTS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-ports, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts:
    - ports:
      - {port: '8080', protocol: TCP}
      - {port: '5201', protocol: TCP}
      - {port: '7000', protocol: TCP}
";

const CONNECTIONS: usize = 100;
/// A first SYN that is not answered is sent again after a second.
const BEFORE_A_RETRY: Duration = Duration::from_millis(700);
const SYN: &str = "tcp flags & (syn | ack) == syn";

#[test]
fn a_killed_agent_leaves_transfers_policy_and_books_alone() {
    let sandbox = Sandbox::up("survive", &yaml(&[CLUSTER, ALLOW_PORTS]));
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let (near, server_netns) = (sandbox.netns("shop/near"), sandbox.netns("shop/server"));
    let _closed = netns::enter(&server_netns, || TcpListener::bind(("0.0.0.0", 8081))).expect("a free port");
    let (arrived_8080, sent_8081) = (format!("tcp dport 8080 {SYN}"), format!("tcp dport 8081 {SYN}"));
    let inside = Witness::new(
        server_netns.clone(),
        "input",
        &[("opened", &arrived_8080), ("leaked", "tcp dport 8081")],
    );
    let outside = Witness::new(near.clone(), "output", &[("refused", &sent_8081)]);

    let undisturbed = Transfer::start(&sandbox, server, &server_netns).finish();
    let (before, known) = (Books::settled(&sandbox, "n1"), knowledge(&sandbox, "n1"));

    let transfer = Transfer::start(&sandbox, server, &server_netns);
    sandbox.kill_agent("n1");
    let connect = |port, patience| connect_all(&near, SocketAddr::new(server, port), patience);
    assert_eq!(connect(8080, PATIENCE), CONNECTIONS, "connections that are allowed, without an agent");
    assert_eq!(connect(8081, BEFORE_A_RETRY), 0, "connections that are forbidden, without an agent");
    sandbox.start_agent("n1");
    let disturbed = transfer.finish();

    let mut pairs = vec![(undisturbed, disturbed)];

    let after = Books::settled(&sandbox, "n1");
    assert_eq!(after.shrunk_since(&before), Vec::<String>::new());
    assert!(after.since(&before, "ledger.lost_flows") > 0, "the killed agent held flows");
    assert_eq!(knowledge(&sandbox, "n1"), known);

    let (opened, refused) = (inside.packets("opened"), outside.packets("refused"));
    let denied = after.since(&before, "ingress.133");
    eprintln!("nft: {opened} opened, {refused} refused; programs: {denied} denied; books: {after:?}");
    assert_eq!(inside.packets("leaked"), 0);
    assert!(refused >= CONNECTIONS as u64);
    assert_eq!(denied, refused, "packets that the programs denied, and those that nft saw leave for them");
    let verdicts =
        sandbox.observe(&["--type", "policy-verdict", "--to-pod", "shop/server", "--port", "8080"]);
    let named: BTreeSet<u64> = verdicts
        .iter()
        .filter(|flow| flow.is_between("shop/near", "shop/server") && flow.direction() == "INGRESS")
        .map(|flow| flow.json()["l4"]["TCP"]["source_port"].as_u64().expect("a port"))
        .collect();
    assert_eq!(named.len() as u64, opened, "connections of the time without an agent, named afterwards");

    // A machine that is busy with other things loses packets of its own now and then; a kill that disturbs does so
    // each time.
    while !is_smooth(pairs.last()) && pairs.len() < TRANSFERS {
        let undisturbed = Transfer::start(&sandbox, server, &server_netns).finish();
        let transfer = Transfer::start(&sandbox, server, &server_netns);
        sandbox.kill_agent("n1");
        sandbox.start_agent("n1");
        pairs.push((undisturbed, transfer.finish()));
    }
    eprintln!("transfers without a kill, and with kill and start: {pairs:?}");
    assert!(is_smooth(pairs.last()), "each transfer with a kill is worse than one without: {pairs:?}");
}

/// Whether a transfer with a kill was as good as one without: no interval of 100 ms without a byte, and at most five
/// retransmitted segments more.
fn is_smooth(pair: Option<&(Transferred, Transferred)>) -> bool {
    pair.is_some_and(|(undisturbed, disturbed)| {
        disturbed.slowest > 0 && disturbed.retransmits <= undisturbed.retransmits + 5
    })
}

/// Transfers without and with a kill that are tried until one pair is equal.
const TRANSFERS: usize = 4;

#[test]
fn a_policy_changed_without_an_agent_is_enforced_by_the_next_one() {
    let sandbox = Sandbox::up("changed", &yaml(&[CLUSTER, ALLOW_CLIENTS, ALLOW_PORTS]));
    let (near, server_netns) = (sandbox.netns("shop/near"), sandbox.netns("shop/server"));
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let listener = netns::enter(&server_netns, || TcpListener::bind(("0.0.0.0", 7000))).expect("a free port");
    let mut client = netns::enter(&near, || TcpStream::connect((server, 7000))).expect("7000 is allowed");
    let mut accepted = listener.accept().expect("the connection that was made").0;
    let mut talk = |what: &str| {
        client.write_all(b"ping").expect(what);
        let mut text = [0; 4];
        accepted.read_exact(&mut text).expect(what);
        accepted.write_all(&text).expect(what);
        client.read_exact(&mut text).expect(what);
        assert_eq!(&text, b"ping", "{what}");
    };
    talk("with an agent");
    sandbox.kill_agent("n1");
    talk("without an agent");
    sandbox.apply(&yaml(&[&ALLOW_PORTS.replace("      - {port: '8080', protocol: TCP}\n", ""), DENY_ALL]));
    sandbox.delete("CiliumNetworkPolicy/shop/allow-clients");
    assert_eq!(
        sandbox.http("shop/near", "http://server.shop:8080/"),
        Ok(200),
        "nobody has told the kernel yet"
    );
    sandbox.start_agent("n1");
    let url = "http://server.shop:8080/";
    eventually("the policy is enforced", PATIENCE, || {
        sandbox.http("shop/near", url).map_or_else(|_| Ok(()), Err)
    });
    let flow = sandbox.wait_flow("the denied flow", &["--verdict", "DROPPED", "--port", "8080"], |flow| {
        flow.is_between("shop/near", "shop/server")
    });
    let mut names = flow.policies("ingress_denied_by");
    names.sort_unstable();
    assert_eq!(names, ["allow-ports", "deny-all"], "{}", flow.json());
    talk("with the next agent");
}

/// What of a node has to survive: its endpoints with their numbers, identities, addresses and policies.
fn knowledge(sandbox: &Sandbox, node: &str) -> Value {
    let socket = sandbox.admin_socket(node);
    let get = |pod: &str| {
        let text =
            check(&mut sandbox.specola(&["endpoint", "get", "--admin-socket", &socket, pod, "-o", "json"]));
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    Value::Array(["shop/server", "shop/near"].map(get).into())
}

/// Tries to connect to an address from a namespace, many at once. Gives how many succeeded; all others must have
/// timed out, which is what a drop looks like.
fn connect_all(netns: &Path, target: SocketAddr, patience: Duration) -> usize {
    let attempt = || netns::enter(netns, || TcpStream::connect_timeout(&target, patience));
    std::thread::scope(|scope| {
        let attempts: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(attempt)).collect();
        let results = attempts.into_iter().map(|attempt| attempt.join().expect("no panic"));
        let succeeded = results.filter(|result| match result {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => false,
            Err(error) => panic!("{target}: {error}"),
        });
        succeeded.count()
    })
}

/// A bulk transfer from the far client to the server.
struct Transfer {
    client: Child,
    server: Child,
}

/// What a transfer was like.
#[derive(Clone, Copy, Debug)]
struct Transferred {
    #[expect(dead_code, reason = "printed")]
    intervals: usize,
    /// Bytes in the worst interval of 100 ms.
    slowest: u64,
    #[expect(dead_code, reason = "printed")]
    bytes: u64,
    retransmits: u64,
}

impl Transfer {
    /// Starts it and waits until bytes flow.
    fn start(sandbox: &Sandbox, server: IpAddr, server_netns: &Path) -> Self {
        let exec = |pod: &str, arguments: &[&str]| {
            let mut command =
                sandbox.specola(&["sandbox", "exec", "--name", sandbox.name(), pod, "--", "iperf3"]);
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().expect("specola starts")
        };
        let running = exec("shop/server", &["-s", "-1"]);
        let listening = |netns: &Path| {
            let table = netns::enter(netns, || std::fs::read_to_string("/proc/thread-self/net/tcp6"));
            table
                .expect("a table of sockets")
                .lines()
                .any(|line| line.contains(":1451 ") && line.contains(" 0A "))
        };
        eventually("iperf3 listens", PATIENCE, || if listening(server_netns) { Ok(()) } else { Err(()) });
        let before = received_bytes(server_netns);
        let host = server.to_string();
        let client = exec("shop/far", &["-c", &host, "-t", "6", "-i", "0.1", "-b", "400M", "-J"]);
        eventually("bytes flow", PATIENCE, || {
            let received = received_bytes(server_netns) - before;
            if received > 10_000_000 { Ok(()) } else { Err(received) }
        });
        Self { client, server: running }
    }

    fn finish(mut self) -> Transferred {
        let output = self.client.wait_with_output().expect("iperf3 ends");
        self.server.wait().expect("iperf3 ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("no intervals: {text}"));
        let sums: Vec<u64> =
            intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_u64()).collect();
        assert!(sums.len() >= 50, "{} intervals: {text}", sums.len());
        let sent = &report["end"]["sum_sent"];
        Transferred {
            intervals: sums.len(),
            slowest: sums.iter().copied().min().unwrap_or(0),
            bytes: sent["bytes"].as_u64().unwrap_or_else(|| panic!("no sum: {text}")),
            retransmits: sent["retransmits"].as_u64().unwrap_or_else(|| panic!("no retransmits: {text}")),
        }
    }
}

/// Bytes that a pod's interface has received.
fn received_bytes(netns: &Path) -> u64 {
    let table =
        netns::enter(netns, || std::fs::read_to_string("/proc/thread-self/net/dev")).expect("a table");
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("a pod has eth0");
    line.split_whitespace().next().and_then(|field| field.parse().ok()).expect("a number of bytes")
}
