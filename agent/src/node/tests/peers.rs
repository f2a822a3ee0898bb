//! Other nodes in policies.

use super::*;
use crate::store::{CiliumNode, NodeAddress, Object};

const FROM_EDGE: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: edge, namespace: shop}\n\
                         spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n  - fromNodes:\n    \
                         - matchLabels: {role: edge}\n";

fn language(node_selector_labels: bool) -> ParseOptions {
    ParseOptions { node_selector_labels, ..ParseOptions::default() }
}

impl Fixture {
    fn with_language(language: ParseOptions) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("desired")).expect("makes the directory");
        Self::start_with(dir, FakeKernel::default(), PolicyOverflow::Keep, language)
    }

    /// Another node says what it is.
    fn put_node(&mut self, name: &str, role: &str, address: &str) {
        let addresses = vec![NodeAddress { kind: "InternalIP".to_owned(), ip: ip(address) }];
        let labels = BTreeMap::from([("role".to_owned(), role.to_owned())]);
        let node = CiliumNode::new(name, NodeSpec { addresses, ..NodeSpec::default() }).with_labels(labels);
        self.store.put(&Object::Node(node)).expect("puts");
        self.pass();
    }

    fn identity_of(&self, address: &str) -> u32 {
        self.kernel.state().ips[&net(&format!("{address}/32"))].identity
    }
}

#[test]
fn nodes_are_selected_by_the_labels_that_they_say() {
    let mut fixture = Fixture::with_language(language(true));
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.put_node("n2", "edge", "172.30.0.3");
    fixture.put_node("n3", "core", "172.30.0.4");
    fixture.put_node("n4", "edge", "172.30.0.5");
    fixture.write("edge.yaml", FROM_EDGE);
    let (edge, core) = (fixture.identity_of("172.30.0.3"), fixture.identity_of("172.30.0.4"));
    assert_eq!((edge >> 24, core >> 24), (2, 2), "numbers of the scope of nodes");
    assert_ne!(edge, core);
    assert_eq!(fixture.identity_of("172.30.0.5"), edge, "one identity for each set of labels");
    assert_eq!(fixture.ingress_peers(web), [1, edge]);

    // The policy knows the new identity before a packet can have it.
    fixture.put_node("n3", "edge", "172.30.0.4");
    assert_eq!(fixture.identity_of("172.30.0.4"), edge);
    fixture.put_node("n2", "core", "172.30.0.3");
    fixture.put_node("n4", "core", "172.30.0.5");
    fixture.put_node("n3", "core", "172.30.0.4");
    let other = fixture.identity_of("172.30.0.3");
    assert_ne!(other, edge);
    assert_eq!(fixture.ingress_peers(web), [1], "nobody has the labels any more");
    fixture.put_node("n2", "edge", "172.30.0.3");
    let again = fixture.identity_of("172.30.0.3");
    assert_eq!(fixture.ingress_peers(web), [1, again]);
    let fixture = fixture.restart(&[("specola_host".to_owned(), 3)].map(|(name, index)| (index, name)));
    assert_eq!(fixture.node.local_identities.nodes()[&again], "node:role=edge,reserved:remote-node");
}

#[test]
fn without_the_option_nodes_are_one_and_such_policies_are_refused() {
    let mut fixture = Fixture::with_language(language(false));
    fixture.write("web.yaml", &pod("web"));
    fixture.put_node("n2", "edge", "172.30.0.3");
    fixture.write("edge.yaml", FROM_EDGE);
    assert_eq!(fixture.identity_of("172.30.0.3"), 6);
    let [refused] = fixture.node.desired.refused.as_slice() else {
        panic!("{:?}", fixture.node.desired.refused)
    };
    assert!(refused.errors[0].contains("enable-node-selector-labels"), "{refused:?}");
}

#[test]
fn a_node_says_its_own_labels() {
    let mut fixture = Fixture::new();
    fixture.node.settings.node_labels = BTreeMap::from([("rack".to_owned(), "r1".to_owned())]);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {role: edge}}\n";
    fixture.write("node.yaml", node);
    let own = |fixture: &Fixture| {
        let contents = fixture.store.list().expect("lists");
        let own = contents.nodes.iter().find(|node| node.metadata.name == "n1").expect("is published");
        own.metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(own(&fixture), ["rack=r1", "role=edge"]);
    fixture.write("node.yaml", &node.replace("edge", "core"));
    assert_eq!(own(&fixture), ["rack=r1", "role=core"]);
}

#[test]
fn the_api_server_is_where_its_service_points() {
    let mut fixture = Fixture::with_language(language(false));
    fixture.write("web.yaml", &pod("web"));
    let web = fixture.add("web", 11);
    fixture.put_node("n2", "core", "172.30.0.3");
    fixture.put_node("n3", "core", "172.30.0.4");
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: api, namespace: shop}\nspec:\n  \
                  endpointSelector: {matchLabels: {app: web}}\n  egress: [{toEntities: [kube-apiserver]}]\n";
    fixture.write("api.yaml", policy);
    let egress = |fixture: &Fixture| {
        let policies = &fixture.kernel.state().policies[&fixture.endpoint(web).file.slot];
        let keys = policies.keys().filter(|key| key.egress == 1);
        keys.map(|key| key.identity).collect::<BTreeSet<u32>>()
    };
    assert_eq!(egress(&fixture), [7].into());
    let service = |addresses: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: kubernetes, namespace: default}}\nspec: {{}}\n---\napiVersion: v1\n\
             kind: Endpoints\nmetadata: {{name: kubernetes, namespace: default}}\nsubsets:\n- addresses: [{addresses}]\n"
        )
    };
    fixture.write("service.yaml", &service("{ip: 172.30.0.3}, {ip: 192.0.2.10}"));
    assert_eq!((fixture.identity_of("172.30.0.3"), fixture.identity_of("172.30.0.4")), (7, 6));
    let outside = fixture.identity_of("192.0.2.10");
    assert_eq!(outside >> 24, 1);
    assert!(egress(&fixture).is_superset(&[7, outside].into()), "{:?}", egress(&fixture));
    assert!(!egress(&fixture).contains(&1));

    fixture.write("service.yaml", &service("{ip: 172.30.0.2}, {ip: 172.30.0.4}"));
    assert_eq!((fixture.identity_of("172.30.0.3"), fixture.identity_of("172.30.0.4")), (6, 7));
    assert!(!fixture.kernel.state().ips.contains_key(&net("192.0.2.10/32")));
    assert!(egress(&fixture).is_superset(&[1, 7].into()), "this node runs one: {:?}", egress(&fixture));
    fixture.remove("service.yaml");
    assert_eq!((egress(&fixture), fixture.identity_of("172.30.0.4")), ([7].into(), 6));
}
