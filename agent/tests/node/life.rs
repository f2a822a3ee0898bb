//! Endpoints come, survive the agent, and go.

use specola_proto::specola::v1 as pb;
use specola_testkit::netns::NetNs;

use crate::world::{World, pings, pod, request, revision_ready};

const DENY_ALL: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                        spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingressDeny:\n  - fromEntities: [all]\n";

#[test]
fn endpoints_are_wired_enforced_restored_and_removed() {
    let world = World::new("life", "auto");
    let (web, db) = (NetNs::new("web").expect("namespace"), NetNs::new("db").expect("namespace"));
    world.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let first = world.with_agent(async |mut client| {
        let added = client.add_endpoint(request("web", &web)).await.expect("adds web").into_inner();
        let again = client.add_endpoint(request("web", &web)).await.expect("adds web again").into_inner();
        assert_eq!(added.ips, again.ips);
        assert_eq!(added.ips[0].address, "10.7.0.2/32");
        assert_eq!(added.ips[0].gateway, "10.7.0.1");
        let endpoint = added.endpoint.expect("has an endpoint");
        assert_eq!(endpoint.state(), pb::EndpointState::Ready, "{endpoint:?}");
        client.add_endpoint(request("db", &db)).await.expect("adds db");
        for (from, to) in [
            (&world.node, "10.7.0.2"),
            (&world.node, "fd07::2"),
            (&web, "10.7.0.1"),
            (&db, "10.7.0.2"),
            (&db, "fd07::2"),
        ] {
            assert!(pings(from, to), "{} to {to}", from.name());
        }
        world.write("policy.yaml", DENY_ALL);
        revision_ready(&client, 2).await;
        assert!(!pings(&db, "10.7.0.2"), "denied");
        let shown = client.get_status(pb::GetStatusRequest {}).await.expect("has a status").into_inner();
        assert!(shown.warnings.is_empty(), "{:?}", shown.warnings);
        assert!(shown.drops.iter().any(|drop| drop.reason == 181 && drop.packets > 0), "{:?}", shown.drops);
        endpoint
    });
    assert!(!pings(&db, "10.7.0.2"), "denied while no agent runs");
    assert!(pings(&web, "10.7.0.1"), "allowed while no agent runs");
    world.with_agent(async |mut client| {
        revision_ready(&client, 2).await;
        let listed = client.list_endpoints(pb::ListEndpointsRequest {}).await.expect("lists").into_inner();
        assert_eq!(listed.endpoints.len(), 2);
        let restored = &listed.endpoints[0];
        assert_eq!((restored.id, restored.slot, &restored.ips), (first.id, first.slot, &first.ips));
        assert_eq!(restored.identity, first.identity);
        assert!(!pings(&db, "10.7.0.2"), "still denied");
        world.remove("policy.yaml");
        revision_ready(&client, 3).await;
        assert!(pings(&db, "10.7.0.2"), "allowed again");
        let delete = pb::DeleteEndpointRequest { container_id: "c-web".to_owned(), ifname: String::new() };
        client.delete_endpoint(delete.clone()).await.expect("deletes");
        client.delete_endpoint(delete).await.expect("is gone already");
        assert!(!web.ip("link show").contains("eth0"));
        assert!(!pings(&db, "10.7.0.2"));
    });
}

#[test]
fn a_pod_that_is_not_known_yet_is_closed() {
    let world = World::new("closed", "auto");
    let web = NetNs::new("web").expect("namespace");
    world.with_agent(async |mut client| {
        let added = client.add_endpoint(request("web", &web)).await.expect("adds").into_inner();
        let endpoint = added.endpoint.expect("has an endpoint");
        assert_eq!(endpoint.state(), pb::EndpointState::WaitingForIdentity, "{endpoint:?}");
        assert!(!pings(&web, "10.7.0.1"));
        world.write("pods.yaml", &pod("web"));
        revision_ready(&client, 1).await;
        assert!(pings(&web, "10.7.0.1"));
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_refused_and_leaves_nothing() {
    let world = World::new("refused", "auto");
    world.with_agent(async |mut client| {
        let web = NetNs::new("web").expect("namespace");
        let missing = pb::AddEndpointRequest { netns: "/nonexistent".to_owned(), ..request("web", &web) };
        let error = client.add_endpoint(missing).await.expect_err("no such namespace");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert!(error.message().contains("/nonexistent"), "{error}");
        let bad = pb::AddEndpointRequest { pod: None, ..request("web", &web) };
        assert_eq!(client.add_endpoint(bad).await.expect_err("no pod").code(), tonic::Code::InvalidArgument);
        let listed = client.list_endpoints(pb::ListEndpointsRequest {}).await.expect("lists").into_inner();
        assert!(listed.endpoints.is_empty());
    });
}

#[test]
fn clsact_filters_enforce_and_survive_too() {
    let world = World::new("clsact", "clsact");
    let web = NetNs::new("web").expect("namespace");
    world.write("pods.yaml", &pod("web"));
    world.with_agent(async |mut client| {
        client.add_endpoint(request("web", &web)).await.expect("adds web");
        assert!(pings(&world.node, "10.7.0.2"));
        world.write("policy.yaml", DENY_ALL);
        revision_ready(&client, 2).await;
        let shown = client.get_status(pb::GetStatusRequest {}).await.expect("has a status").into_inner();
        assert_eq!(shown.attach_mode, "clsact");
        assert!(!pings(&world.node, "10.7.0.2"), "denied");
    });
    assert!(!pings(&world.node, "10.7.0.2"), "denied while no agent runs");
    world.with_agent(async |client| {
        revision_ready(&client, 2).await;
        world.remove("policy.yaml");
        revision_ready(&client, 3).await;
        assert!(pings(&world.node, "10.7.0.2"), "allowed again");
    });
}
