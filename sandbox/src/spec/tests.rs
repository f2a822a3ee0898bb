use super::*;

const POD: &str = "kind: Pod\nmetadata:\n  name: web\n  namespace: shop\n";

fn parse(text: &str) -> Result<Spec, String> {
    // Every document needs a version, which says nothing here.
    let text = text
        .replace("kind: Pod", "apiVersion: v1\nkind: Pod")
        .replace("kind: Node", "apiVersion: v1\nkind: Node");
    Spec::parse("f.yaml", &text, ParseOptions::default()).map_err(|error| error.to_string())
}

#[test]
fn a_file_without_nodes_gets_one() {
    let spec = parse(POD).expect("spec");
    assert_eq!(spec.nodes[0].name, "node1");
    assert_eq!(
        spec.nodes[0].addresses,
        ["172.30.0.11".parse::<IpAddr>().unwrap(), "fd00:172:30::11".parse().unwrap()]
    );
    let networks: Vec<_> = spec.nodes[0].pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    assert_eq!(spec.pods[0].node, "node1");
    let kinds: Vec<_> = spec.objects.iter().map(Object::to_string).collect();
    assert_eq!(kinds, ["Node node1", "Pod shop/web", "Namespace shop"]);
}

#[test]
fn what_is_filled_in_is_written_out() {
    let spec =
        parse(&format!("kind: Node\nmetadata: {{name: n1, labels: {{zone: a}}}}\n---\n{POD}")).expect("spec");
    let text: String = spec.objects.iter().map(|object| object.yaml().expect("yaml") + "---\n").collect();
    let again =
        Spec::parse("again.yaml", &text, ParseOptions::default()).expect("the output is a cluster file");
    assert_eq!(again.nodes, spec.nodes);
    assert_eq!(again.pods, spec.pods);
    assert!(text.contains("zone: a"), "{text}");
    assert!(text.contains("nodeName: n1"), "{text}");
}

#[test]
fn pods_without_node_are_spread() {
    let nodes = "kind: Node\nmetadata: {name: a}\n---\nkind: Node\nmetadata: {name: b}\n";
    let pod = |name: &str| format!("---\nkind: Pod\nmetadata: {{name: {name}}}\n");
    let spec = parse(&format!("{nodes}{}{}{}", pod("u"), pod("v"), pod("w"))).expect("spec");
    let places: Vec<_> = spec.pods.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(places, ["a", "b", "a"]);
    assert_eq!(spec.pods[0].namespace, "default");
}

#[test]
fn words_that_yaml_takes_for_booleans_must_be_quoted() {
    let pod = |name: &str| parse(&format!("kind: Pod\nmetadata: {{name: {name}}}\n"));
    for name in ["y", "no", "on", "010", "1_000"] {
        let error = pod(name).expect_err("is no text");
        assert!(error.contains("metadata.name"), "{error}");
        let quoted = format!("'{}'", name.replace('_', "-"));
        assert!(pod(&quoted).is_ok(), "{quoted}");
    }
}

#[test]
fn given_addresses_are_kept() {
    let text = "kind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.1.0.0/24}\nstatus:\n  addresses:\n  \
                - {type: InternalIP, address: 192.168.3.1}\n---\nkind: Node\nmetadata: {name: b}\nspec:\n  \
                podCIDRs: [10.2.0.0/24]\nstatus:\n  addresses: [{type: InternalIP, address: 192.168.7.1}]\n";
    let spec = parse(text).expect("spec");
    assert_eq!(spec.nodes[0].pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
    assert_eq!(spec.nodes[1].addresses, ["192.168.7.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(underlay_prefix(&spec.nodes, true), 21);
    assert_eq!(underlay_prefix(&spec.nodes, false), 64);
    assert_eq!(underlay_prefix(&spec.nodes[..1], true), 24);
}

#[test]
fn wrong_files_name_line_object_and_field() {
    let node = |name: &str, rest: &str| format!("kind: Node\nmetadata: {{name: {name}}}\n{rest}\n---\n");
    let cases = [
        (format!("{POD}---\n{POD}"), "f.yaml:6: Pod shop/web is defined twice"),
        (format!("{POD}spec: {{nodeName: nope}}\n"), "spec.nodeName: no node \"nope\""),
        (format!("{POD}spec: {{hostNetwork: true}}\n"), "spec.hostNetwork: every pod"),
        (
            "kind: Pod\nmetadata:\n  name: a\n  annotations: {sandbox.specola.io/workload: dance}\n"
                .to_owned(),
            "metadata.annotations[sandbox.specola.io/workload]: unknown workload",
        ),
        (node("a", "spec: {podCIDRs: [10.0.0.0/33]}"), "spec.podCIDRs[0]: \"10.0.0.0/33\" is no CIDR"),
        (node("a", "spec: {podCIDRs: [10.0.0.1/24]}"), "has host bits"),
        (node("a", "status: {addresses: [{type: InternalIP, address: x}]}"), "status.addresses[0].address"),
        (
            node("a", "spec: {podCIDRs: [10.0.0.0/8]}") + &node("b", "spec: {podCIDRs: [10.1.0.0/16]}"),
            "nodes a and b overlap",
        ),
        ((1..=9).map(|n| node(&format!("n{n}"), "")).collect(), "at most 8 nodes"),
        (node("Big", ""), "metadata.name: not a lower-case DNS name"),
    ];
    for (text, cause) in cases {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(cause), "{text}\ngave {error}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "kind: Pod\nmetadata: {name: A}\n---\nkind: Pod\nmetadata: {name: b}\nspec: {nodeName: x}\n";
    let error = parse(text).expect_err("two problems");
    assert_eq!(error.lines().count(), 2, "{error}");
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(
        kind in "Pod|Node|Namespace|List|CiliumNetworkPolicy",
        rest in "[ a-z:{}\\[\\],\n|>&*!-]{0,80}",
    ) {
        let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n{rest}");
        _ = Spec::parse("f.yaml", &text, ParseOptions::default());
    }
}
