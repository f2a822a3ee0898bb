//! The node's own addresses, which come and go.

use specola_agent::bpf::{AddressRow, NodeView};
use specola_testkit::netns::NetNs;
use specola_testkit::{eventually, eventually_async};

use crate::world::{LIMIT, World, pings, pod, request, revision_ready};

const TO_WORLD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: out, namespace: shop}\n\
                        spec:\n  endpointSelector: {matchLabels: {app: web}}\n  egress:\n  - toEntities: [world]\n";

const ADDED: [&str; 3] = ["198.51.100.7", "169.254.7.7", "fd99::7"];

#[test]
fn an_address_that_comes_later_is_the_host_until_it_goes() {
    let world = World::new("addresses", "auto");
    let (web, peer) = (NetNs::new("web").expect("namespace"), NetNs::new("peer").expect("namespace"));
    world.node.veth("eth0", &peer, "eth0");
    world.write("pods.yaml", &pod("web"));
    world.write("policy.yaml", TO_WORLD);
    world.with_agent(async |mut client| {
        client.add_endpoint(request("web", &web)).await.expect("adds web");
        revision_ready(&client, 1).await;
        let view = NodeView::open(world.place()).expect("maps are pinned");
        for address in ADDED {
            assert_eq!(entry(&view, address), None);
            let nodad = if address.contains(':') { " nodad" } else { "" };
            world.node.ip(&format!("addr add {address} dev eth0{nodad}"));
            let row = eventually("the ipcache has it", LIMIT, || entry(&view, address).ok_or(address));
            assert_eq!((row.identity.id, row.local_node), (1, true), "{row:?}");
            assert!(!pings(&web, address), "{address}: world is allowed, the host is not");
        }
        world.remove("policy.yaml");
        for address in ADDED {
            eventually_async("it answers without the policy", LIMIT, || async {
                if pings(&web, address) { Ok(()) } else { Err(address) }
            })
            .await;
        }
        for address in ADDED {
            world.node.ip(&format!("addr del {address} dev eth0"));
            eventually("the ipcache forgets it", LIMIT, || entry(&view, address).map_or(Ok(()), Err));
        }
        let own = entry(&view, "172.30.0.2").expect("the Node object's address stays");
        assert_eq!((own.identity.id, own.local_node), (1, true));
    });
}

fn entry(view: &NodeView, address: &str) -> Option<AddressRow> {
    let address: std::net::IpAddr = address.parse().expect("an address");
    let rows = view.addresses().expect("reads").entries;
    rows.into_iter().find(|row| row.prefix == ipnet::IpNet::from(address))
}
