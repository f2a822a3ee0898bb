//! The node's own policy on a node with pods.

use specola_testkit::eventually;
use specola_testkit::netns::NetNs;

use crate::world::{LIMIT, World, pings, pod, request, revision_ready};

/// Only `web` may talk to the node, and the node only to `web`.
const NODE_AND_WEB: &str = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: node-and-web}\n\
    spec:\n  nodeSelector: {matchLabels: {role: web}}\n\
    \x20 ingress: [{fromEndpoints: [{matchLabels: {app: web, 'k8s:io.kubernetes.pod.namespace': shop}}]}]\n\
    \x20 egress: [{toEndpoints: [{matchLabels: {app: web, 'k8s:io.kubernetes.pod.namespace': shop}}]}]\n";

#[test]
fn the_host_firewall_governs_what_the_node_and_its_pods_send_each_other() {
    let world = World::new("firewall", "tcx");
    let (web, db) = (NetNs::new("web").expect("namespace"), NetNs::new("db").expect("namespace"));
    world.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    world.write("policy.yaml", NODE_AND_WEB);
    let firewall = |config: &mut specola_agent::AgentConfig| {
        config.host_firewall = true;
        config.node_labels = vec![("role".to_owned(), "web".to_owned())];
    };
    world.with_changed_agent(firewall, async |mut client| {
        for (name, netns) in [("web", &web), ("db", &db)] {
            client.add_endpoint(request(name, netns)).await.expect("adds the pod");
        }
        revision_ready(&client, 1).await;
        for (gateway, addresses) in
            [("10.7.0.1", ["10.7.0.2", "10.7.0.3"]), ("fd07::1", ["fd07::2", "fd07::3"])]
        {
            assert!(pings(&web, gateway), "{gateway} from web");
            assert!(!pings(&db, gateway), "{gateway} from db");
            assert!(pings(&world.node, addresses[0]), "{addresses:?} from the node");
            assert!(!pings(&world.node, addresses[1]), "{addresses:?} from the node");
            assert!(pings(&db, addresses[0]), "what pods say to each other is not the node's");
        }
        world.remove("policy.yaml");
        eventually("nothing governs the node", LIMIT, || {
            if pings(&db, "10.7.0.1") && pings(&world.node, "fd07::3") { Ok(()) } else { Err("closed still") }
        });
    });
}
