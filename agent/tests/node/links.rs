//! What the agent makes of the network: pod links, host device, routes.

use specola_agent::Listen;
use specola_testkit::eventually;
use specola_testkit::netns::NetNs;

use crate::world::{LIMIT, World, pod, request};

#[test]
fn a_pod_has_host_addresses_one_gateway_and_no_need_for_arp() {
    let world = World::new("links", "auto");
    let web = NetNs::new("web").expect("namespace");
    world.write("pods.yaml", &pod("web"));
    let added = world.with_agent(async |mut client| {
        client.add_endpoint(request("web", &web)).await.expect("adds web").into_inner()
    });
    let shown = web.ip("addr show dev eth0");
    for part in ["inet 10.7.0.2/32", "inet6 fd07::2/128", "mtu 1500", added.mac.as_str()] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("tentative"), "no duplicate address detection: {shown}");
    assert!(web.ip("route show").contains("default via 10.7.0.1 dev eth0"));
    assert!(web.ip("-6 route show").contains("default via fd07::1 dev eth0"));
    let host_side = world.node.ip(&format!("link show dev {}", added.host_ifname));
    let neighbours = web.ip("neigh show");
    for gateway in ["10.7.0.1", "fd07::1"] {
        let line = neighbours.lines().find(|line| line.starts_with(gateway)).expect("gateway is a neighbour");
        assert!(line.contains("PERMANENT"), "{line}");
        let mac = line.split_whitespace().nth(4).expect("neighbour has an address");
        assert!(host_side.contains(mac), "{mac} in {host_side}");
    }
}

#[test]
fn the_host_device_has_the_routers_and_the_pod_routes() {
    let world = World::new("host", "auto");
    // Twice: what is there already is taken up.
    for _ in 0..2 {
        world.with_agent(async |_client| {});
        assert!(world.node.ip("link show dev specola_host").contains("NOARP"));
        let addresses = world.node.ip("addr show dev specola_host");
        assert!(addresses.contains("10.7.0.1/32") && addresses.contains("fd07::1/128"), "{addresses}");
        assert!(world.node.ip("route show").contains("10.7.0.0/24 dev specola_host"));
        assert!(world.node.ip("-6 route show").contains("fd07::/64 dev specola_host"));
    }
}

#[test]
fn an_interface_of_another_program_is_left_alone() {
    let world = World::new("foreign", "auto");
    let web = NetNs::new("web").expect("namespace");
    web.ip("link add eth0 type veth peer name other");
    world.write("pods.yaml", &pod("web"));
    world.with_agent(async |mut client| {
        let error = client.add_endpoint(request("web", &web)).await.expect_err("eth0 is taken");
        assert!(error.message().contains("eth0"), "{error}");
    });
    assert!(web.ip("link show").contains("eth0"));
    assert!(!world.node.ip("link show").contains("lxc"), "nothing is left behind");
}

#[test]
fn routes_to_peers_follow_the_store_and_spare_foreign_ones() {
    let world = World::new("routes", "auto");
    let peer = NetNs::new("peer").expect("namespace");
    world.node.veth("eth0", &peer, "eth0");
    world.node.ip("addr add 172.30.0.2/24 dev eth0");
    world.node.ip("route add 10.9.0.0/24 via 172.30.0.9");
    let object = |cidr: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n2}}\nspec:\n  \
             addresses: [{{type: InternalIP, ip: 172.30.0.3}}]\n  ipam: {{podCIDRs: [{cidr}]}}\n"
        )
    };
    let routes_to = |cidr: &str| {
        let wanted = format!("{cidr} via 172.30.0.3");
        eventually(&wanted, LIMIT, || {
            let routes = world.node.ip("route show");
            if routes.contains(&wanted) { Ok(routes) } else { Err(routes) }
        })
    };
    world.with_agent(async |_client| {
        world.store("ciliumnodes/n2.yaml", &object("10.8.1.0/24"));
        routes_to("10.8.1.0/24");
        world.store("ciliumnodes/n2.yaml", &object("10.8.2.0/24"));
        routes_to("10.8.2.0/24");
        let routes = eventually("the old route is gone", LIMIT, || {
            let routes = world.node.ip("route show");
            if routes.contains("10.8.1.0/24") { Err(routes) } else { Ok(routes) }
        });
        assert!(routes.contains("10.9.0.0/24 via 172.30.0.9"), "{routes}");
    });
}

#[test]
fn settings_that_cannot_work_are_named() {
    let world = World::new("errors", "auto");
    let error = world.start_error(|config| config.devices.push("eth7".to_owned()));
    assert!(error.contains("eth7 does not exist") && error.contains("--device"), "{error}");
    let error = world.start_error(|config| config.pin_dir = "/tmp".into());
    assert!(error.contains("mount -t bpf"), "{error}");
    let error =
        world.start_error(|config| config.metrics_listen = Some(Listen::At(([192, 0, 2, 1], 9).into())));
    assert!(error.contains("192.0.2.1:9"), "{error}");
}
