use std::collections::BTreeSet;
use std::sync::Barrier;

use super::*;
use crate::store::{
    Addressing, CiliumEndpoint, CiliumNode, EndpointIdentity, EndpointStatus, NodeAddress, NodeSpec,
    ObjectMeta,
};

fn labels(app: &str) -> Vec<String> {
    vec![format!("k8s:app={app}"), "k8s:io.kubernetes.pod.namespace=shop".to_owned(), "k8s:flag".to_owned()]
}

fn digest(app: &str) -> String {
    format!("{:064x}", app.bytes().map(u64::from).sum::<u64>())
}

fn store() -> (tempfile::TempDir, DirectoryStore) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = DirectoryStore::open(dir.path()).expect("opens");
    (dir, store)
}

#[test]
fn one_label_set_has_one_number_that_stays() {
    let (dir, store) = store();
    let first = store.identity(&digest("web"), &labels("web")).expect("allocates");
    assert_eq!(first, 256);
    assert_eq!(store.identity(&digest("db"), &labels("db")).expect("allocates"), 257);
    let other_agent = DirectoryStore::open(dir.path()).expect("opens again");
    assert_eq!(other_agent.identity(&digest("web"), &labels("web")).expect("finds"), first);
}

#[test]
fn agents_that_race_for_one_label_set_agree() {
    const AGENTS: usize = 8;
    let (dir, _store) = store();
    for round in 0..20 {
        let app = format!("app{round}");
        let barrier = Barrier::new(AGENTS);
        let numbers: BTreeSet<u32> = std::thread::scope(|scope| {
            let agents: Vec<_> = (0..AGENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let agent = DirectoryStore::open(dir.path()).expect("opens");
                        barrier.wait();
                        agent.identity(&format!("{round:064x}"), &labels(&app)).expect("allocates")
                    })
                })
                .collect();
            agents.into_iter().map(|agent| agent.join().expect("no panic")).collect()
        });
        assert_eq!(numbers.len(), 1, "round {round}: {numbers:?}");
    }
    let contents = DirectoryStore::open(dir.path()).expect("opens").list().expect("lists");
    assert_eq!(contents.identities.len(), 20, "losers removed what they made");
    assert!(contents.refused.is_empty());
}

#[test]
fn agents_that_race_for_different_label_sets_get_different_numbers() {
    let (dir, _store) = store();
    let numbers: BTreeSet<u32> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..8)
            .map(|agent| {
                let dir = dir.path();
                scope.spawn(move || {
                    let store = DirectoryStore::open(dir).expect("opens");
                    store
                        .identity(&format!("{agent:064x}"), &labels(&format!("app{agent}")))
                        .expect("allocates")
                })
            })
            .collect();
        agents.into_iter().map(|agent| agent.join().expect("no panic")).collect()
    });
    assert_eq!(numbers.len(), 8);
}

#[test]
fn a_crash_between_object_and_index_is_taken_up() {
    let (_dir, store) = store();
    store.create(&Object::Identity(CiliumIdentity::new(300, &labels("web")))).expect("creates");
    assert_eq!(store.identity(&digest("web"), &labels("web")).expect("adopts"), 300);
}

#[test]
fn a_deleted_object_comes_back_under_its_number() {
    let (_dir, store) = store();
    let number = store.identity(&digest("web"), &labels("web")).expect("allocates");
    assert!(store.delete(Kind::Identity, &Key::cluster(number.to_string())).expect("deletes"));
    assert_eq!(store.identity(&digest("web"), &labels("web")).expect("restores"), number);
    assert_eq!(store.list().expect("lists").identities.len(), 1);
}

#[test]
fn an_index_entry_that_names_a_foreign_object_is_corrected() {
    let (dir, store) = store();
    let number = store.identity(&digest("web"), &labels("web")).expect("allocates");
    store.put(&Object::Identity(CiliumIdentity::new(number, &labels("db")))).expect("overwrites");
    let second = store.identity(&digest("web"), &labels("web")).expect("allocates anew");
    assert_ne!(second, number);
    let index = dir.path().join(INDEX).join(digest("web"));
    assert_eq!(fs::read_to_string(index).expect("index exists"), second.to_string());
}

#[test]
fn objects_round_trip_in_upstreams_shape() {
    let (dir, store) = store();
    let addressing = vec![Addressing { ipv4: "10.0.0.5".parse().ok(), ipv6: "fd00::5".parse().ok() }];
    let identity = EndpointIdentity { id: 300, labels: Vec::new() };
    let mut status =
        EndpointStatus { id: 7, identity, state: "ready".to_owned(), ..EndpointStatus::default() };
    status.networking.addressing = addressing;
    let metadata =
        ObjectMeta { name: "web".to_owned(), namespace: "shop".to_owned(), ..ObjectMeta::default() };
    let endpoint = CiliumEndpoint::new(metadata, status);
    let address =
        NodeAddress { kind: "InternalIP".to_owned(), ip: "172.30.0.2".parse().expect("an address") };
    let mut spec = NodeSpec { addresses: vec![address], ..NodeSpec::default() };
    spec.ipam.pod_cidrs = vec!["10.0.0.0/24".parse().expect("a prefix")];
    let node = CiliumNode::new("n1", spec);
    store.put(&Object::Endpoint(endpoint.clone())).expect("puts");
    store.put(&Object::Node(node.clone())).expect("puts");
    let contents = store.list().expect("lists");
    assert_eq!(contents.endpoints.iter().collect::<Vec<_>>(), [&endpoint]);
    assert_eq!(contents.nodes.iter().collect::<Vec<_>>(), [&node]);
    let text = fs::read_to_string(dir.path().join("ciliumendpoints/shop/web.yaml")).expect("is there");
    for part in ["kind: CiliumEndpoint", "ipv6: fd00::5", "external-identifiers:"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn unreadable_objects_are_named_and_the_rest_is_listed() {
    let (dir, store) = store();
    store.identity(&digest("web"), &labels("web")).expect("allocates");
    fs::write(dir.path().join("ciliumnodes/bad.yaml"), "spec: [").expect("writes");
    let contents = store.list().expect("lists");
    assert_eq!(contents.identities.len(), 1);
    assert!(contents.refused[0].contains("bad.yaml"), "{:?}", contents.refused);
}

#[test]
fn names_cannot_leave_the_directory() {
    let (_dir, store) = store();
    for name in ["../x", "a/b", "", ".hidden", "UP"] {
        let deleted = store.delete(Kind::Node, &Key::cluster(name));
        assert!(matches!(deleted, Err(StoreError::Name(_))), "{name:?}");
    }
}

#[test]
fn an_endpoint_cannot_claim_a_reserved_identity() {
    let (dir, store) = store();
    let mut status = EndpointStatus::default();
    status.identity.id = 1;
    let metadata = ObjectMeta { name: "x".to_owned(), namespace: "shop".to_owned(), ..ObjectMeta::default() };
    store.put(&Object::Endpoint(CiliumEndpoint::new(metadata, status))).expect("puts");
    store.put(&Object::Identity(CiliumIdentity::new(1, &labels("web")))).expect("puts");
    fs::write(dir.path().join("ciliumidentities/oops.yaml"), "{}").expect("writes");
    let contents = store.list().expect("lists");
    assert!(contents.endpoints.is_empty() && contents.identities.is_empty());
    assert_eq!(contents.refused.len(), 3, "{:?}", contents.refused);
}
