//! Packets that leave a pod: ingress hook of the pod's host-side interface.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use specola_datapath_common::{
    config::mac_of,
    conntrack::{SIDE_INITIATOR, SIDE_RESPONDER},
    direction,
    event::point,
    ipcache::{IpInfo, ip_flags},
    metrics::drop,
};

use crate::{
    address::Mac,
    config::{CFG_HOST_IFINDEX, CFG_HOST_MAC},
    conntrack::{self, Track},
    deliver::{self, Way},
    endpoint::Endpoint,
    ipcache,
    parse::{self, Network},
    policy::{self, Question, Settled},
    skb::{self, mark},
    spoof, trace,
    verdict::{self, Drop, Outcome, PASS},
    work::{Work, class},
};

#[classifier]
fn from_container(ctx: TcContext) -> i32 {
    let Some(work) = Work::begin(&ctx) else {
        return TC_ACT_SHOT;
    };
    work.event.direction = direction::EGRESS;
    let outcome = handle(&ctx, work);
    verdict::finish(work, outcome)
}

#[inline(always)]
fn handle(ctx: &TcContext, work: &mut Work) -> Outcome {
    skb::set_marks(ctx, 0);
    let sender = Endpoint::of_interface(work.event.ifindex)?;
    sender.describe(work, direction::EGRESS);
    work.event.src_identity = sender.record.identity;
    if skb::has_vlan(ctx) {
        return Err(Drop::new(drop::UNSUPPORTED_L3));
    }
    let network = parse::network(ctx, work)?;
    spoof::check_mac(work, &sender)?;
    match network {
        Network::Ip => {}
        Network::Arp => return PASS,
        Network::Other => return Err(Drop::new(drop::UNSUPPORTED_L3)),
    }
    let only_neighbor = spoof::check_address(work, &sender)?;
    parse::transport(ctx, work)?;
    // A pod is no router.
    if parse::is_of_router(work) {
        return Err(Drop::new(drop::FORBIDDEN_ICMPV6_MESSAGE));
    }
    if only_neighbor && !work.is(class::NEIGHBOR) {
        return Err(Drop::new(drop::INVALID_SOURCE_IP));
    }
    work.class |= class::FROM_POD;
    let track = conntrack::track(ctx, work);
    match policy::settled(work, &track, &sender) {
        Some(Settled::Pod(receiver)) => {
            let action = deliver::deliver_settled(ctx, work, &track, receiver, Way::Peer)?;
            verdict::count(work, direction::EGRESS, 0);
            return Ok(action);
        }
        Some(to) => {
            sender.enter(work, direction::EGRESS);
            return leave(ctx, work, &track, sender, matches!(to, Settled::Node));
        }
        None => {}
    }
    let dst = ipcache::find(&work.dst, work.event.ip_version, &mut work.prefix);
    work.event.dst_identity = dst.identity;
    if work.is(class::NEIGHBOR) && stays_on_link(work, &dst) {
        return PASS;
    }
    let question =
        Question { endpoint: sender, side: SIDE_INITIATOR, peer: dst.identity, direction: direction::EGRESS };
    policy::decide(work, &track, &question)?;
    if dst.slot != 0 {
        let receiver = Endpoint::of_slot(u32::from(dst.slot))?;
        let action = deliver::deliver(ctx, work, &track, receiver, Way::Peer)?;
        verdict::count(work, direction::EGRESS, 0);
        return Ok(action);
    }
    let is_node = dst.flags & ip_flags::LOCAL_NODE != 0;
    conntrack::set_elsewhere(work, &track, SIDE_RESPONDER ^ usize::from(track.dir), is_node);
    leave(ctx, work, &track, sender, is_node)
}

/// Neighbour discovery goes to the link, or to the router on it.
#[inline(always)]
fn stays_on_link(work: &Work, dst: &IpInfo) -> bool {
    work.dst.is_multicast() || work.dst.is_link_local() || dst.flags & ip_flags::LOCAL_NODE != 0
}

/// The way to anything but a pod of this node: the host device for the node itself, else the stack's routing.
#[inline(always)]
fn leave(ctx: &TcContext, work: &mut Work, track: &Track, sender: Endpoint, is_node: bool) -> Outcome {
    let host = CFG_HOST_IFINDEX.load();
    let to_host = is_node && host != 0;
    if to_host {
        skb::set_macs(ctx, host_mac(), sender.host_mac())?;
    }
    let reported_here = if to_host { None } else { Some(point::TO_STACK) };
    let report = trace::commit(ctx, work, track, reported_here)?;
    skb::set_marks(ctx, if report { mark::FROM_POD | mark::TRACE } else { mark::FROM_POD });
    Ok(if to_host { skb::redirect_ingress(host) } else { TC_ACT_OK })
}

/// Link address of the host device.
#[inline(always)]
fn host_mac() -> Mac {
    let [a, b, c, d, e, f] = mac_of(CFG_HOST_MAC.load());
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}
