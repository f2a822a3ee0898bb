use insta::assert_snapshot;
use specola_proto::specola::v1::{
    ConnectionCounts, DropCount, Equation, FlowStatus, LaneStatus, Ledger, RefusedDocument,
};

use super::*;

fn text(answer: &Answer) -> String {
    let mut out = Vec::new();
    text::print(&mut out, answer).unwrap();
    String::from_utf8(out).unwrap()
}

fn server(health: ServingStatus, status: ServerStatusResponse) -> Answer {
    let server = Server { target: "127.0.0.1:14245".to_owned(), health, status };
    Answer { name: "n1".to_owned(), server: Some(server), agent: None, errors: Vec::new(), notes: Vec::new() }
}

#[test]
fn a_relay_is_shown_like_hubble_does() {
    let status = ServerStatusResponse {
        num_flows: 8190,
        max_flows: 8190,
        flows_rate: 12.345,
        num_connected_nodes: Some(2),
        num_unavailable_nodes: Some(12),
        unavailable_nodes: (0..10).rev().map(|at| format!("n{at}")).collect(),
        ..ServerStatusResponse::default()
    };
    let answer = server(ServingStatus::Serving, status);
    assert!(answer.is_healthy());
    assert_snapshot!(text(&answer), @r"
    Healthcheck (via 127.0.0.1:14245): Ok
    Current/Max Flows: 8,190/8,190 (100.00%)
    Flows/s: 12.35
    Connected Nodes: 2/14
    Unavailable Nodes: 12
      - n0
      - n1
      - n2
      - n3
      - n4
      - n5
      - n6
      - n7
      - n8
      - n9
      - and 2 more...
    ");
}

#[test]
fn a_server_that_does_not_serve_is_unhealthy() {
    let status =
        ServerStatusResponse { seen_flows: 5, uptime_ns: 2_000_000_000, ..ServerStatusResponse::default() };
    let answer = server(ServingStatus::NotServing, status);
    assert!(!answer.is_healthy());
    assert_snapshot!(text(&answer), @r"
    Healthcheck (via 127.0.0.1:14245): Unavailable: NOT_SERVING
    Current/Max Flows: 0/0
    Flows/s: 2.50
    ");
    assert_eq!(answer.json()["server"]["health"], "NOT_SERVING");
    let young = server(ServingStatus::Serving, ServerStatusResponse::default());
    assert!(text(&young).contains("Flows/s: N/A\n"));
}

#[test]
fn an_agent_shows_what_is_wrong() {
    let agent = GetStatusResponse {
        version: "0.1.0".to_owned(),
        node_name: "n1".to_owned(),
        cluster_name: "default".to_owned(),
        uptime_ns: 3_723_000_000_000,
        ready: true,
        policy_revision: 4,
        endpoints_total: 2,
        endpoints_ready: 1,
        identities: 9,
        policies: 3,
        ipcache_entries: 12,
        attach_mode: "tcx".to_owned(),
        refused: vec![RefusedDocument {
            source: "bad.yaml:3".to_owned(),
            errors: vec!["spec.ingress[0].toPorts: no".to_owned(), "spec.egress: no".to_owned()],
            object: String::new(),
        }],
        drops: vec![
            DropCount { direction: "ingress".to_owned(), reason: 0, packets: 1234, bytes: 2048 },
            DropCount { direction: "ingress".to_owned(), reason: 133, packets: 5, bytes: 300 },
            DropCount { direction: "egress".to_owned(), reason: 133, packets: 0, bytes: 0 },
        ],
        lanes: vec![LaneStatus {
            name: "deny".to_owned(),
            attempts: 10,
            submitted: 9,
            reserve_failed: 1,
            folded: 9,
            taken: 7,
            waiting: 2,
            balanced: true,
        }],
        ledger: Some(Ledger {
            consumed: 5_000,
            in_hand: 3,
            expanded: 10,
            pushed: 5_000,
            held: 4_096,
            overwritten: 904,
            rejected: [("size".to_owned(), 2)].into(),
            lost_records: 8,
            lost_flows: 1,
            folded_reported: 7,
            folded_waiting: 2,
            equations: [("lanes", true), ("folds", true), ("records", true), ("flows", false)]
                .map(|(name, holds)| Equation {
                    name: name.to_owned(),
                    text: "left = right".to_owned(),
                    holds,
                })
                .into(),
            ..Ledger::default()
        }),
        flows: Some(FlowStatus {
            seen: 5000,
            held: 4096,
            capacity: 4096,
            rejected: [("size".to_owned(), 2), ("abi".to_owned(), 0)].into(),
            overwritten: 904,
            ..FlowStatus::default()
        }),
        warnings: vec!["store is slow".to_owned()],
        connections: Some(ConnectionCounts { created: 1_234, removed: 1_000, present: 230, evicted: 4 }),
    };
    let mut answer = server(ServingStatus::Serving, ServerStatusResponse::default());
    answer.server = None;
    answer.agent = Some(agent);
    answer.notes.push("a note".to_owned());
    assert!(answer.is_healthy());
    assert_snapshot!(text(&answer), @r"
    Agent: ready, node n1 of cluster default, version 0.1.0, up 1h2m3s
    Endpoints: 1/2 ready
    Policies: 3 at revision 4
    Identities: 9, ipcache entries: 12
    Programs attached by: tcx
    Flows: 5,000 seen, 4,096 of 4,096 held, 904 overwritten
    Rejected records: 2 (size)
    Refused: bad.yaml:3: spec.ingress[0].toPorts: no
    Refused: bad.yaml:3: spec.egress: no
    Warning: store is slow

    LANE   ATTEMPTS   SUBMITTED   LOST   FOLDED   TAKEN   WAITING
    deny   10         9           1      9        7       2

    Ledger: lanes holds: left = right
    Ledger: folds holds: left = right
      9 = 7 + 2
    Ledger: records holds: left = right
      5,000 + 0 + 10 + 0 = 5,000 + 2 + 8
    Ledger: flows DOES NOT HOLD: left = right
      5,000 = 4,096 + 904 + 1
      in hand 3, lost in full lanes 0, refused agent events 0

    Connections: 1,234 created, 1,000 removed, 230 present, 4 evicted
      what evicted ones carried since their last trace, at most one interval's, is in no flow;
      --conntrack-tcp-entries and --conntrack-other-entries give more room

    DIRECTION   PACKETS   BYTES     WHAT
    ingress     1,234     2.0 KiB   forwarded
    ingress     5         300 B     dropped: Policy denied
    Note: a note
    ");
    let json = answer.json();
    assert_eq!(json["agent"]["refused"][0]["errors"][1], "spec.egress: no");
    assert_eq!(json["healthy"], true);
    answer.errors.push("failed".to_owned());
    assert!(!answer.is_healthy());
}

#[test]
fn the_flags_choose_whom_to_ask() {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StatusArgs,
    }
    for (line, server, agent) in [
        ("", true, true),
        ("--server a:1", true, false),
        ("--admin-socket /a", false, true),
        ("--server a:1 --admin-socket /a", true, true),
    ] {
        let args = Line::parse_from(std::iter::once("status").chain(line.split_whitespace())).args;
        let questions = questions(&args).unwrap();
        assert_eq!(questions.len(), 1);
        assert_eq!((questions[0].server.is_some(), questions[0].agent.is_some()), (server, agent), "{line}");
    }
}
