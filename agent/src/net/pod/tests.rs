use std::net::IpAddr;

use specola_testkit::netns::NetNs;

use super::*;

fn addresses(ipv4: &str, ipv6: &str) -> Addresses {
    Addresses { ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok() }
}

fn request(pod: &NetNs) -> PodLinkRequest {
    PodLinkRequest {
        netns: pod.path().to_owned(),
        ifname: "eth0".to_owned(),
        host_ifname: "lxc0123456789".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1400,
        addresses: addresses("10.7.0.2", "fd07::2"),
        gateways: addresses("10.7.0.1", "fd07::1"),
    }
}

/// Runs `work` in the node's namespace, with a netlink handle of it.
fn on_node<T: Send>(node: &NetNs, work: impl AsyncFnOnce(Net) -> T + Send) -> T {
    node.enter(|| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async { work(Net::open().expect("netlink opens")).await })
    })
}

#[test]
fn a_pod_link_is_complete_idempotent_and_removable() {
    specola_testkit::require_root();
    let node = NetNs::new("agent-node").expect("namespace");
    let pod = NetNs::new("agent-pod").expect("namespace");
    let wanted = request(&pod);
    let (first, second) = on_node(&node, async |net| {
        let first = net.ensure_pod_link(&wanted).await.expect("makes the link");
        (first, net.ensure_pod_link(&wanted).await.expect("finds the link"))
    });
    assert_eq!(first, second);
    assert_eq!((first.mac, first.host_mac), (wanted.mac, wanted.host_mac));
    assert_eq!(first.host_ifindex, node.ifindex("lxc0123456789"));

    let shown = pod.ip("addr show dev eth0");
    for part in ["inet 10.7.0.2/32", "inet6 fd07::2/128", "mtu 1400", "link/ether 02:00:00:00:00:01"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("tentative"), "no duplicate address detection: {shown}");
    assert!(pod.ip("route show").contains("default via 10.7.0.1 dev eth0"));
    assert!(pod.ip("-6 route show").contains("default via fd07::1 dev eth0"));
    let neighbours = pod.ip("neigh show");
    for gateway in ["10.7.0.1", "fd07::1"] {
        let line = neighbours.lines().find(|line| line.starts_with(gateway)).expect("gateway is a neighbour");
        assert!(line.contains("02:00:00:00:00:02") && line.contains("PERMANENT"), "{line}");
    }

    on_node(&node, async |net| net.remove_pod_link("lxc0123456789").await.expect("removes"));
    assert!(!pod.ip("link show").contains("eth0"));
    on_node(&node, async |net| net.remove_pod_link("lxc0123456789").await.expect("gone is fine"));
}

#[test]
fn a_failed_pod_link_leaves_nothing_behind() {
    specola_testkit::require_root();
    let node = NetNs::new("agent-node").expect("namespace");
    let pod = NetNs::new("agent-pod").expect("namespace");
    pod.ip("link add eth0 type veth peer name other");
    let error = on_node(&node, async |net| {
        let missing = PodLinkRequest { netns: "/nonexistent/netns".into(), ..request(&pod) };
        net.ensure_pod_link(&missing).await.expect_err("no such namespace")
    });
    assert!(error.to_string().contains("/nonexistent/netns"), "{error}");
    let taken = on_node(&node, async |net| net.ensure_pod_link(&request(&pod)).await);
    assert!(taken.is_err(), "eth0 in the pod belongs to another program");
    assert!(!node.ip("link show").contains("lxc0123456789"));
}

#[test]
fn the_host_device_has_routers_and_routes() {
    specola_testkit::require_root();
    let node = NetNs::new("agent-node").expect("namespace");
    let cidrs: Vec<IpNet> =
        ["10.7.0.0/24", "fd07::/64"].iter().map(|text| text.parse().expect("cidr")).collect();
    let routers = addresses("10.7.0.1", "fd07::1");
    let (first, second) = on_node(&node, async |net| {
        let first = net.ensure_host_device(routers, &cidrs, &[], 1500).await.expect("makes it");
        (first, net.ensure_host_device(routers, &cidrs, &[], 1500).await.expect("finds it"))
    });
    assert_eq!(first, second);
    assert!(node.ip("link show dev specola_host").contains("NOARP"));
    assert!(node.ip("route show").contains("10.7.0.0/24 dev specola_host"));
    assert!(node.ip("-6 route show").contains("fd07::/64 dev specola_host"));
}

#[test]
fn peer_routes_follow_the_wanted_set_and_spare_foreign_ones() {
    specola_testkit::require_root();
    let node = NetNs::new("agent-node").expect("namespace");
    let peer = NetNs::new("agent-peer").expect("namespace");
    node.veth("eth0", &peer, "eth0");
    node.ip("addr add 172.30.0.2/24 dev eth0");
    node.ip("link set eth0 up");
    peer.ip("link set eth0 up");
    node.ip("route add 10.9.0.0/24 via 172.30.0.9");
    let gateway: IpAddr = "172.30.0.3".parse().expect("an address");
    let route = |text: &str| (text.parse::<IpNet>().expect("a prefix"), gateway);
    on_node(&node, async |net| {
        assert!(net.sync_peer_routes(&[route("10.8.1.0/24"), route("10.8.2.0/24")].into()).await.is_empty());
        assert!(net.sync_peer_routes(&[route("10.8.2.0/24")].into()).await.is_empty());
    });
    let routes = node.ip("route show");
    assert!(routes.contains("10.8.2.0/24 via 172.30.0.3") && routes.contains("10.9.0.0/24"), "{routes}");
    assert!(!routes.contains("10.8.1.0/24"), "{routes}");
}
