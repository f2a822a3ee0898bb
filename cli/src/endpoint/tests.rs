use get_endpoint_request::Key;
use insta::assert_snapshot;
use specola_proto::specola::v1::request_rules::Rules;
use specola_proto::specola::v1::{HttpRule, HttpRules, Redirect, RedirectGrant, RequestRules};

use super::*;

fn backend() -> Endpoint {
    Endpoint {
        id: 7,
        state: EndpointState::Ready.into(),
        pod: Some(PodRef { namespace: "shop".to_owned(), name: "backend".to_owned() }),
        identity: 258,
        labels: vec!["k8s:app=backend".to_owned()],
        ips: vec!["10.244.1.2".to_owned(), "fd00:10:244:1::2".to_owned()],
        mac: "02:00:00:00:00:07".to_owned(),
        host_ifname: "lxc0a1b".to_owned(),
        policy_revision: 3,
        ingress_enforced: true,
        policy_entries: 2,
        policy_entries_max: 16_384,
        policy_status: PolicyStatus::Outdated.into(),
        audit: true,
        conditions: vec!["late \u{1b}[31m".to_owned()],
        node: "n1".to_owned(),
        ..Endpoint::default()
    }
}

fn origin(name: &str, section: &str) -> PolicyOrigin {
    PolicyOrigin {
        kind: "CiliumNetworkPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        section: section.to_owned(),
        ..PolicyOrigin::default()
    }
}

#[test]
fn keys_are_read() {
    for (text, key) in [
        ("7", Key::Id(7)),
        ("shop/backend", Key::Pod(PodRef { namespace: "shop".to_owned(), name: "backend".to_owned() })),
        ("10.244.1.2", Key::Ip("10.244.1.2".to_owned())),
        ("fd00:0:0::2", Key::Ip("fd00::2".to_owned())),
    ] {
        assert_eq!(parse_key(text).unwrap(), key, "{text}");
    }
    for text in ["backend", "/backend", "shop/", "", "-1"] {
        assert!(parse_key(text).unwrap_err().to_string().contains("is no endpoint"), "{text}");
    }
}

#[test]
fn the_list_is_a_table() {
    let mut out = Vec::new();
    let odd = Endpoint { state: 99, ..Endpoint::default() };
    table(&[backend(), odd]).write(&mut out).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap(), @r"
    NODE   ID   POD            STATE   IDENTITY   IPS                           INGRESS    EGRESS   POLICY            REVISION   ENTRIES
    n1     7    shop/backend   ready   ID:258     10.244.1.2,fd00:10:244:1::2   enforced   open     outdated, audit   3          2/16384
           0    -              99      unknown                                  open       open     unknown           0          0
    ");
}

#[test]
fn one_endpoint_shows_its_policy() {
    let entry = |identity, first_port, last_port, action: &str, section: &str| PolicyEntry {
        direction: "ingress".to_owned(),
        identity,
        protocol: 6,
        first_port,
        last_port,
        action: action.to_owned(),
        precedence: 5,
        cookie: 1,
        origins: vec![origin("backend", section)],
    };
    let found = GetEndpointResponse {
        endpoint: Some(backend()),
        policy: vec![
            entry(257, 8080, 8080, "allow", "ingress"),
            entry(2, 0, 65_535, "deny", "ingressDeny"),
            PolicyEntry { protocol: 0, ..entry(0, 1000, 1999, "allow", "ingress") },
        ],
        ingress_selected_by: vec![origin("backend", "")],
        egress_selected_by: Vec::new(),
        policies: vec![AppliedPolicy {
            kind: "CiliumNetworkPolicy".to_owned(),
            namespace: "shop".to_owned(),
            name: "backend".to_owned(),
            revision: 4,
            realized: false,
        }],
        redirects: Vec::new(),
    };
    let mut out = Vec::new();
    print_one(&mut out, &found, Output::Compact).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap(), @r"
    endpoint: 7
    pod: shop/backend
    node: n1
    state: ready
    identity: 258
    labels: k8s:app=backend
    addresses: 10.244.1.2 fd00:10:244:1::2
    mac: 02:00:00:00:00:07
    interface: lxc0a1b
    policy: outdated, audit
    policy revision: 3
    policy entries: 2/16384
    ingress: enforced
    egress: open
    condition: late ^[[31m
    ingress selected by: CiliumNetworkPolicy shop/backend

    POLICY         KIND                  REVISION   STATUS
    shop/backend   CiliumNetworkPolicy   4          not realized

    DIRECTION   IDENTITY   PROTOCOL   PORT        ACTION   PRECEDENCE   ORIGIN
    ingress     ID:257     tcp        8080        allow    5            CiliumNetworkPolicy shop/backend ingress[0]
    ingress     world      tcp        any         deny     5            CiliumNetworkPolicy shop/backend ingressDeny[0]
    ingress     any        any        1000-1999   allow    5            CiliumNetworkPolicy shop/backend ingress[0]
    ");
    let mut out = Vec::new();
    print_one(&mut out, &found, Output::Json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["endpoint"]["pod"]["name"], "backend");
    assert_eq!(json["policy"][0]["first_port"], 8080);
}

#[test]
fn requests_that_may_pass_are_a_table() {
    let http = |method: &str, path: Option<&str>| HttpRule {
        method: Some(method.to_owned()),
        path: path.map(str::to_owned),
        ..HttpRule::default()
    };
    let http = Rules::Http(HttpRules { rules: vec![http("GET", Some("/a/.*")), http("HEAD", None)] });
    let ruled = RedirectGrant {
        identities: vec![257, 2],
        parser: "http".to_owned(),
        rules: vec![RequestRules { rules: Some(http) }],
        origins: vec![origin("backend", "ingress")],
        ..RedirectGrant::default()
    };
    let open = RedirectGrant { any_peer: true, all_requests: true, ..RedirectGrant::default() };
    let redirect = Redirect {
        direction: "ingress".to_owned(),
        protocol: 6,
        first_port: 80,
        last_port: 89,
        grants: vec![ruled, open],
    };
    let mut out = Vec::new();
    redirect::table(&[redirect]).write(&mut out).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap(), @r"
    REDIRECT   PROTOCOL   PORT    PEERS          PARSER   REQUESTS            ORIGIN
    ingress    tcp        80-89   ID:257,world   http     GET /a/.* or HEAD   CiliumNetworkPolicy shop/backend ingress[0]
    ingress    tcp        80-89   any            -        all
    ");
}
