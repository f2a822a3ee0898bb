use insta::assert_snapshot;
use specola_agent::bpf::{
    AddressRow, ConnectionEnd, ConnectionRow, EndpointRow, Hooked, LaneRow, NamedCookie, NamedIdentity,
    PacketRow, PolicyRow, ProgramRow,
};
use specola_proto::specola::v1::PolicyOrigin;

use super::*;

fn web() -> NamedIdentity {
    let labels =
        ["k8s:app=web", "k8s:io.cilium.k8s.policy.cluster=default", "k8s:io.kubernetes.pod.namespace=shop"];
    NamedIdentity { id: 258, labels: labels.map(str::to_owned).to_vec() }
}

fn cookie() -> NamedCookie {
    let origin = PolicyOrigin {
        kind: "NetworkPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: "web\u{1b}[31m".to_owned(),
        section: "ingress".to_owned(),
        ..PolicyOrigin::default()
    };
    NamedCookie { id: 9, origins: vec![origin] }
}

fn shown(table: &Columns) -> String {
    let mut out = Vec::new();
    table.write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn policies_show_peers_ports_and_rules() {
    let row = PolicyRow {
        endpoint: 7,
        pod: Some("shop/web".to_owned()),
        direction: "ingress",
        identity: web(),
        protocol: 6,
        first_port: 8080,
        last_port: 8081,
        action: "allow",
        audit: false,
        proxy_port: 0,
        auth: 0,
        precedence: 5,
        cookie: cookie(),
    };
    let deny = PolicyRow {
        identity: NamedIdentity::default(),
        protocol: 0,
        first_port: 0,
        last_port: 65535,
        action: "deny",
        audit: true,
        cookie: NamedCookie::default(),
        pod: None,
        ..row.clone()
    };
    let redirect = PolicyRow { action: "redirect", proxy_port: 9000, ..row.clone() };
    assert_snapshot!(shown(&text::policy(&[row, deny, redirect])), @r"
    ENDPOINT   POD        DIRECTION   PEER                                                   PROTOCOL   PORT        ACTION                  PRECEDENCE   COOKIE   RULES
    7          shop/web   ingress     258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   tcp        8080-8081   allow                   5            9        NetworkPolicy shop/web^[[31m ingress[0]
    7          -          ingress     any                                                    any        any         deny (audit)            5            0        -
    7          shop/web   ingress     258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   tcp        8080-8081   redirect to port 9000   5            9        NetworkPolicy shop/web^[[31m ingress[0]
    ");
}

#[test]
fn connections_show_both_ends_and_their_verdicts() {
    let initiator = ConnectionEnd {
        address: [10, 244, 1, 2].into(),
        port: 40000,
        packets: 5,
        bytes: 4096,
        tcp_flags: 2,
        endpoint: Some(7),
        pod: Some("shop/web".to_owned()),
        verdict: Some("allowed"),
        drop_reason: None,
        cookie: Some(cookie()),
    };
    let responder = ConnectionEnd {
        address: "fd00::2".parse().unwrap(),
        port: 53,
        packets: 0,
        bytes: 0,
        endpoint: None,
        pod: None,
        verdict: Some("denied"),
        drop_reason: Some(133),
        cookie: None,
        ..initiator.clone()
    };
    let row = ConnectionRow {
        protocol: 17,
        state: "new",
        initiator: initiator.clone(),
        responder,
        mid_stream: true,
        age_ms: 3_700_000,
        idle_ms: 1500,
        expires_in_ms: 61_000,
    };
    let over = ConnectionRow {
        responder: ConnectionEnd { verdict: None, ..initiator },
        expires_in_ms: 0,
        ..row.clone()
    };
    assert_snapshot!(shown(&text::connections(&[row, over])), @r"
    PROTOCOL   INITIATOR                     RESPONDER                     STATE              SENT          RECEIVED      AGE     IDLE   EXPIRES   EGRESS                                               INGRESS
    udp        10.244.1.2:40000 (shop/web)   [fd00::2]:53                  new (mid-stream)   5 / 4.0 KiB   0 / 0 B       1h01m   1.5s   1m01s     allowed by NetworkPolicy shop/web^[[31m ingress[0]   denied (Policy denied)
    udp        10.244.1.2:40000 (shop/web)   10.244.1.2:40000 (shop/web)   new (mid-stream)   5 / 4.0 KiB   5 / 4.0 KiB   1h01m   1.5s   over      allowed by NetworkPolicy shop/web^[[31m ingress[0]   -
    ");
}

#[test]
fn endpoints_and_addresses_are_tables() {
    let endpoint = EndpointRow {
        slot: 1,
        endpoint: 7,
        pod: Some("shop/web".to_owned()),
        identity: web(),
        ifindex: 12,
        interface: Some("lxc0a1b".to_owned()),
        ips: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        mac: "02:00:00:00:00:07".to_owned(),
        host_mac: "02:00:00:00:01:07".to_owned(),
        ready: true,
        audit: false,
        revision: 4,
        epoch: 9,
        active: 'a',
        entries: 12,
        in_step: true,
        default_ingress: cookie(),
        default_egress: NamedCookie::default(),
    };
    let closed =
        EndpointRow { ready: false, interface: None, active: 'b', in_step: false, ..endpoint.clone() };
    assert_snapshot!(shown(&text::endpoints(&[endpoint, closed])), @r"
    SLOT   ENDPOINT   POD        IDENTITY                                               INTERFACE   IPS                  MAC                 STATE    REVISION   EPOCH   TRIE           ENTRIES
    1      7          shop/web   258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   lxc0a1b     10.244.1.2,fd00::2   02:00:00:00:00:07   ready    4          9       a              12
    1      7          shop/web   258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   12 (gone)   10.244.1.2,fd00::2   02:00:00:00:00:07   closed   4          9       b (updating)   12
    ");
    let pod = AddressRow {
        prefix: "10.244.1.2/32".parse().unwrap(),
        identity: web(),
        endpoint: Some(7),
        pod: Some("shop/web".to_owned()),
        node: None,
        local_node: false,
    };
    let remote = AddressRow { endpoint: None, pod: None, node: Some([172, 30, 0, 2].into()), ..pod.clone() };
    let host = AddressRow { node: None, local_node: true, ..remote.clone() };
    assert_snapshot!(shown(&text::addresses(&[pod, remote, host])), @r"
    PREFIX          IDENTITY                                               ENDPOINT   POD        NODE
    10.244.1.2/32   258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   7          shop/web   -
    10.244.1.2/32   258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   -          -          172.30.0.2
    10.244.1.2/32   258 k8s:app=web,k8s:io.kubernetes.pod.namespace=shop   -          -          this one
    ");
}

#[test]
fn counters_and_programs_are_tables() {
    let forwarded = PacketRow {
        direction: "egress",
        reason: 0,
        reason_name: "FORWARDED".to_owned(),
        packets: 3,
        bytes: 300,
    };
    let denied = PacketRow { reason: 133, packets: 1, ..forwarded.clone() };
    assert_snapshot!(shown(&text::packets(&[forwarded, denied])), @r"
    DIRECTION   FATE            PACKETS   BYTES
    egress      forwarded       3         300
    egress      Policy denied   1         300
    ");
    let lane = LaneRow {
        lane: "deny",
        attempts: 10,
        submitted: 8,
        lost: 1,
        folded: 1,
        waiting_bytes: 200,
        size_bytes: 4 << 20,
    };
    assert_snapshot!(shown(&text::lanes(&[lane])), @r"
    LANE   ATTEMPTS   SUBMITTED   LOST   FOLDED   WAITING   SIZE
    deny   10         8           1      1        200 B     4.0 MiB
    ");
    let program = ProgramRow {
        id: 77,
        name: "from_container".to_owned(),
        tag: "00ff".to_owned(),
        loaded_at: Some(1_700_000_000),
        translated_bytes: 20_000,
        jitted_bytes: 12_288,
        verified_instructions: Some(31_000),
        memory_bytes: 32_768,
        hooks: vec![
            Hooked { ifindex: 12, interface: Some("lxc0".to_owned()), hook: "ingress", by: "tcx" },
            Hooked { ifindex: 13, interface: None, hook: "ingress", by: "tcx" },
        ],
    };
    let idle =
        ProgramRow { hooks: Vec::new(), jitted_bytes: 0, verified_instructions: None, ..program.clone() };
    assert_snapshot!(shown(&text::programs(&[program, idle])), @r"
    ID   NAME             HOOKED AT                                     TAG    LOADED                 CODE          VERIFIED             MEMORY
    77   from_container   lxc0 ingress (tcx), 13 (gone) ingress (tcx)   00ff   2023-11-14T22:13:20Z   12.0 KiB      31000 instructions   32.0 KiB
    77   from_container   -                                             00ff   2023-11-14T22:13:20Z   interpreted   -                    32.0 KiB
    ");
}

#[test]
fn the_fill_of_maps_is_shown() {
    let mut out = Vec::new();
    let half = Fill { map: "SP_CT4_TCP".to_owned(), used: 32_768, max: 65_536 };
    let none = Fill { map: "empty".to_owned(), used: 0, max: 0 };
    write_fill(&mut out, &[half, none]).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap(), @r"

    MAP          USED    MAX     FILL
    SP_CT4_TCP   32768   65536   50 %
    empty        0       0       0 %
    ");
}
