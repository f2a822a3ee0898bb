//! A pod, its node with a host device, and another machine: every way that packets take, with real sockets.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use specola_datapath_common::direction::{EGRESS, INGRESS};
use specola_datapath_common::event::{Event, ct_state, flags, kind, point};
use specola_datapath_common::ipcache::ip_flags;
use specola_datapath_common::metrics::drop;
use specola_datapath_common::v4_mapped;
use specola_testkit::eventually;
use specola_testkit::netns::NetNs;
use specola_testkit::packet::Frame;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const SLOT: u16 = 1;
const POD: Ends = Ends { v4: Ipv4Addr::new(10, 7, 0, 2), v6: Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2) };
const ROUTER: Ends = Ends { v4: Ipv4Addr::new(10, 7, 0, 1), v6: Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1) };
const FAR: Ends = Ends { v4: Ipv4Addr::new(10, 8, 0, 9), v6: Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 9) };
const FAR_IDENTITY: u32 = 5009;
const HOST_IDENTITY: u32 = 1;

/// One party's addresses.
#[derive(Clone, Copy)]
struct Ends {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Ends {
    fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The namespaces, joined and routed: pod - node (specola_host) - far.
struct World {
    pod: NetNs,
    node: NetNs,
    far: NetNs,
    datapath: Datapath,
    events: Arc<Mutex<Vec<Event>>>,
    waker: ReaderWaker,
    reader: Option<JoinHandle<ReaderCounts>>,
    _pins: Pins,
}

impl World {
    fn new(attach: AttachMode) -> Self {
        let pins = Pins::new();
        let [pod, node, far] = ["pod", "node", "far"].map(|name| NetNs::new(name).unwrap());
        wire(&pod, &node, &far);
        let host_ifindex = node.ifindex("specola_host");
        let config = Config {
            attach,
            host_ifindex,
            host_mac: node.mac("specola_host"),
            trace_interval_ms: 60_000,
            ..pins.config()
        };
        let mut datapath = Datapath::load(&config).unwrap();
        let record = EndpointRecord {
            mac: pod.mac("eth0"),
            host_mac: node.mac("lxc1"),
            ipv4: POD.v4.octets(),
            ipv6: POD.v6.octets(),
            ..endpoint(SLOT, node.ifindex("lxc1"))
        };
        datapath.add_endpoint(SLOT, &record).unwrap();
        let local = IpInfo { identity: record.identity, slot: SLOT, ..IpInfo::default() };
        let host = IpInfo { identity: HOST_IDENTITY, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() };
        let remote = IpInfo { identity: FAR_IDENTITY, ..IpInfo::default() };
        for (ends, info) in [(POD, local), (ROUTER, host), (FAR, remote)] {
            for address in ends.both() {
                datapath.upsert_ip(address.into(), info).unwrap();
            }
        }
        for port in [80, 53] {
            let any = PolicyKey { proto: 0, prefix_len: FULL_PREFIX_STATIC, ..key(0, 0) };
            let out = PolicyKey { egress: 1, ..any };
            let value = |plen: u32, cookie| {
                let deny_plen = u8::try_from(plen - FULL_PREFIX_STATIC).unwrap() << VALUE_PLEN_SHIFT;
                PolicyValue { proxy_port_be: 0, deny_plen, auth: 0, precedence: PRECEDENCE_ALLOW, cookie }
            };
            // Everything out, and in: the two ports of anybody.
            let entries = [
                (out, value(FULL_PREFIX_STATIC, 1)),
                (key(0, port), value(PREFIX_FULL, 2)),
                (PolicyKey { proto: 17, ..key(0, port) }, value(PREFIX_FULL, 3)),
            ];
            datapath.apply_policy(SLOT, &entries, &[], ready(1)).unwrap();
        }
        node.enter(|| {
            datapath.attach_endpoint(record.ifindex)?;
            datapath.attach_host(host_ifindex)
        })
        .unwrap();
        let device = node.ifindex("eth0");
        node.enter(|| datapath.attach_netdev(device)).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let collect = move |tick: Tick<'_>| {
            sink.lock().unwrap().extend_from_slice(tick.events);
            None
        };
        let reader = datapath.take_reader().unwrap();
        let waker = reader.waker();
        let reader = Some(reader.spawn(collect).unwrap());
        Self { pod, node, far, datapath, events, waker, reader, _pins: pins }
    }

    #[track_caller]
    fn wait_for(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        eventually(what, LIMIT, || {
            let events = self.events.lock().unwrap();
            events.iter().find(|event| wanted(event)).copied().ok_or_else(|| events.clone())
        })
    }

    /// Sends a megabyte each way over a connection from one namespace to an address in the other.
    fn exchange(&self, client: &NetNs, server: &NetNs, at: SocketAddr) {
        let listener = server.enter(|| TcpListener::bind(at)).unwrap();
        let data = vec![0x5a; 1 << 20];
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                stream.write_all(&received).unwrap();
                received.len()
            });
            let mut stream = client.enter(|| TcpStream::connect_timeout(&at, LIMIT)).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.write_all(&data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!((echo.join().unwrap(), answer.len()), (data.len(), data.len()));
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.waker.stop();
        if let Some(reader) = self.reader.take() {
            // A panic of the reader shows by itself; there may be one already.
            drop(reader.join());
        }
    }
}

/// Links, addresses and routes.
fn wire(pod: &NetNs, node: &NetNs, far: &NetNs) {
    node.sysctl("net.ipv4.ip_forward", "1");
    node.sysctl("net.ipv6.conf.all.forwarding", "1");
    for ns in [pod, node, far] {
        // Addresses are usable at once.
        ns.sysctl("net.ipv6.conf.default.accept_dad", "0");
        ns.sysctl("net.ipv6.conf.all.accept_dad", "0");
        ns.ip("link set lo up");
    }
    node.veth("lxc1", pod, "eth0");
    node.veth("eth0", far, "eth0");
    node.ip("link add specola_host type veth peer name specola_net");
    for device in ["specola_host", "specola_net"] {
        node.ip(&format!("link set {device} arp off up"));
    }
    for (node_net, far_net) in [("172.31.0.1/24", "172.31.0.2/24"), ("fd31::1/64", "fd31::2/64")] {
        node.ip(&format!("addr add {node_net} dev eth0"));
        far.ip(&format!("addr add {far_net} dev eth0"));
    }
    let lladdr = node.mac("lxc1").map(|byte| format!("{byte:02x}")).join(":");
    for index in 0..2 {
        let (router, address, remote) = (ROUTER.both()[index], POD.both()[index], FAR.both()[index]);
        // Without duplicate address detection an address is usable at once, as the source of a route too.
        let (full, net) = if index == 0 { ("32", 24) } else { ("128", 64) };
        let nodad = if index == 0 { "" } else { " nodad" };
        let (via_far, via_node) =
            if index == 0 { ("172.31.0.2", "172.31.0.1") } else { ("fd31::2", "fd31::1") };
        node.ip(&format!("addr add {router}/{full} dev specola_host{nodad}"));
        node.ip(&format!("route add {}/{net} dev specola_host src {router}", network(address)));
        node.ip(&format!("route add {}/{net} via {via_far}", network(remote)));
        far.ip(&format!("addr add {remote}/{full} dev lo{nodad}"));
        far.ip(&format!("route add {}/{net} via {via_node} src {remote}", network(address)));
        pod.ip(&format!("addr add {address}/{full} dev eth0{nodad}"));
        pod.ip(&format!("route add {router}/{full} dev eth0"));
        pod.ip(&format!("route add default via {router} dev eth0"));
        pod.ip(&format!("neigh add {router} lladdr {lladdr} dev eth0 nud permanent"));
    }
}

/// The network of an address of ours: its last group cleared.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !0xffff).into(),
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn every_way_carries_traffic(attach: AttachMode) {
    let world = World::new(attach);
    for index in 0..2 {
        let (pod, router, far) = (POD.both()[index], ROUTER.both()[index], FAR.both()[index]);
        // Between the node and its pod.
        world.exchange(&world.node, &world.pod, SocketAddr::new(pod, 80));
        let verdict = world.wait_for("the verdict about the host", |event| {
            event.kind == kind::POLICY_VERDICT && event.src_addr == octets(router)
        });
        assert_eq!((verdict.src_identity, verdict.cookie, verdict.direction), (HOST_IDENTITY, 2, INGRESS));
        world.exchange(&world.pod, &world.node, SocketAddr::new(router, 8080));
        let to_host = world.wait_for("a trace at the host device", |event| {
            event.obs_point == point::TO_HOST && event.dst_addr == octets(router) && event.dst_port == 8080
        });
        assert_eq!((to_host.endpoint_id, to_host.direction), (SLOT, EGRESS));
        world.wait_for("the end, seen at the host device", |event| {
            event.dst_port == 8080 && event.flags & flags::CLOSE != 0 && event.bytes_fwd > 1 << 20
        });

        // Between the pod and another machine.
        world.exchange(&world.pod, &world.far, SocketAddr::new(far, 8080));
        for observed in [point::TO_STACK, point::TO_NETWORK] {
            let trace = world.wait_for("a trace on the way out", |event| {
                event.kind == kind::TRACE && event.obs_point == observed && event.dst_addr == octets(far)
            });
            assert_eq!(
                (trace.dst_identity, trace.ct_state, trace.packets_fwd),
                (FAR_IDENTITY, ct_state::NEW, 1)
            );
        }
        world.exchange(&world.far, &world.pod, SocketAddr::new(pod, 80));
        let close = world.wait_for("the end of the far one's connection", |event| {
            event.src_identity == FAR_IDENTITY && event.dst_port == 80 && event.flags & flags::CLOSE != 0
        });
        assert!(close.bytes_fwd > 1 << 20 && close.bytes_rev > 1 << 20, "{close:#?}");

        // Datagrams above the MTU, both ways.
        let pod_socket = world.pod.enter(|| UdpSocket::bind(SocketAddr::new(pod, 53))).unwrap();
        let far_socket = world.far.enter(|| UdpSocket::bind(SocketAddr::new(far, 9000))).unwrap();
        let (big, mut buffer) = (vec![7; 5000], vec![0; 8000]);
        for (from, to) in [(&far_socket, &pod_socket), (&pod_socket, &far_socket)] {
            to.set_read_timeout(Some(LIMIT)).unwrap();
            from.send_to(&big, to.local_addr().unwrap()).unwrap();
            let (length, sender) = to.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], sender), (&big[..], from.local_addr().unwrap()));
        }

        // An error of the far machine finds the socket that it is about.
        pod_socket.connect(SocketAddr::new(far, 9001)).unwrap();
        pod_socket.set_read_timeout(Some(LIMIT)).unwrap();
        pod_socket.send(b"nobody there").unwrap();
        let refused = pod_socket.recv(&mut buffer).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        world.wait_for("the error, related", |event| event.ct_state == ct_state::RELATED);
    }
    // Nothing above was dropped, and what policy does not name is.
    let dropped = |reason| {
        let counts = world.datapath.packet_counts().unwrap();
        counts.iter().filter(|count| count.reason == reason).map(|count| count.packets).sum::<u64>()
    };
    assert_eq!(dropped(drop::POLICY_DENIED), 0);
    assert_eq!(dropped(drop::FRAG_NOT_FOUND), 0);
    let far_socket = world.far.enter(|| UdpSocket::bind(SocketAddr::new(FAR.v4.into(), 0))).unwrap();
    far_socket.send_to(b"no", SocketAddr::new(POD.v4.into(), 81)).unwrap();
    let denied =
        world.wait_for("the denied packet", |event| event.verdict == -i32::from(drop::POLICY_DENIED));
    assert_eq!((denied.endpoint_id, denied.dst_port, denied.src_identity), (SLOT, 81, FAR_IDENTITY));
}

#[test]
fn every_way_carries_traffic_with_tcx() {
    every_way_carries_traffic(AttachMode::Tcx);
}

#[test]
fn every_way_carries_traffic_with_clsact() {
    every_way_carries_traffic(AttachMode::Clsact);
}

/// Sends a frame out of a device of the calling thread's namespace.
fn send_frame(ifindex: u32, frame: &[u8]) {
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was opened just now and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: all zeros are a valid value of this structure of numbers.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = i32::try_from(ifindex).unwrap();
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: both buffers have the lengths that are told, and outlive the call.
    let sent = unsafe {
        let to = (&raw const to).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, length)
    };
    assert_eq!(usize::try_from(sent), Ok(frame.len()), "{}", std::io::Error::last_os_error());
}

/// The stack takes a frame of VLAN 0 as one without a tag, also behind another such tag: so must the programs.
#[test]
fn a_priority_tag_hides_no_forged_source() {
    const TAG: [u8; 4] = [0x81, 0, 0xe0, 0];
    let world = World::new(AttachMode::Auto);
    let (far_mac, node_mac) = (world.far.mac("eth0"), world.node.mac("eth0"));
    let device = world.far.ifindex("eth0");
    let send = |src: Ipv4Addr, port: u16, tags: usize| {
        let plain = Frame::new(src.into(), POD.v4.into()).macs(far_mac, node_mac).udp(port, 53).bytes();
        let frame = [&plain[..12], &TAG.repeat(tags), &plain[12..]].concat();
        world.far.enter(|| send_frame(device, &frame));
    };
    send(ROUTER.v4, 9001, 1);
    let forged =
        world.wait_for("the forged source", |event| event.verdict == -i32::from(drop::INVALID_SOURCE_IP));
    assert_eq!(
        (forged.kind, forged.direction, forged.src_addr),
        (kind::DROP, INGRESS, octets(ROUTER.v4.into()))
    );
    send(ROUTER.v4, 9002, 2);
    let hidden =
        world.wait_for("the frame with two tags", |event| event.verdict == -i32::from(drop::UNSUPPORTED_L3));
    assert_eq!((hidden.kind, hidden.direction), (kind::DROP, INGRESS));
    // Who hides nothing may set a priority.
    send(FAR.v4, 9003, 1);
    let let_in = world.wait_for("the honest packet", |event| event.src_port == 9003);
    assert_eq!((let_in.kind, let_in.verdict, let_in.src_identity), (kind::POLICY_VERDICT, 0, FAR_IDENTITY));
}
