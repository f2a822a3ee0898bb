//! Packets from the network: ingress hook of a node device.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use specola_datapath_common::{direction, ipcache::ip_flags, metrics::drop};

use crate::{
    conntrack,
    deliver::{self, Way},
    endpoint::Endpoint,
    host::{self, Host},
    ipcache,
    parse::{self, Network},
    policy, skb,
    verdict::{self, Drop, Outcome, PASS},
    work::Work,
};

#[classifier]
fn from_netdev(ctx: TcContext) -> i32 {
    skb::set_marks(&ctx, 0);
    if skb::is_of_vlan(&ctx) {
        // Another link's traffic: its own device sees it.
        return TC_ACT_OK;
    }
    let Some(work) = Work::begin(&ctx) else {
        return TC_ACT_SHOT;
    };
    let outcome = host::finally(handle(&ctx, work));
    verdict::finish(work, outcome)
}

#[inline(always)]
fn handle(ctx: &TcContext, work: &mut Work) -> Outcome {
    if skb::has_second_vlan(ctx) {
        // The stack would take off both tags of a frame whose addresses are not read here.
        work.event.direction = direction::INGRESS;
        return Err(Drop::new(drop::UNSUPPORTED_L3));
    }
    let Network::Ip = parse::network(ctx, work)? else {
        return PASS;
    };
    let version = work.event.ip_version;
    let dst = if host::is_only() {
        let dst = ipcache::find(&work.dst, version, &mut work.prefix);
        work.event.dst_identity = dst.identity;
        dst
    } else {
        match deliver::receiver(work)? {
            (Some(receiver), _) => return to_pod(ctx, work, receiver),
            (None, dst) => dst,
        }
    };
    check_source(work)?;
    match Host::find() {
        Some(host) if host::is_own(&work.dst, &dst, version) => host.receive(ctx, work),
        _ => PASS,
    }
}

/// The receiver is a pod of this node.
#[inline(always)]
fn to_pod(ctx: &TcContext, work: &mut Work, receiver: Endpoint) -> Outcome {
    work.event.direction = direction::INGRESS;
    receiver.describe(work, direction::INGRESS);
    parse::transport(ctx, work)?;
    let track = conntrack::track(ctx, work);
    if let Some(false) = policy::settled_from_elsewhere(work, &track, &receiver) {
        return deliver::deliver_settled(ctx, work, &track, receiver, Way::Peer);
    }
    check_source(work)?;
    conntrack::set_elsewhere(work, &track, usize::from(track.dir), false);
    deliver::deliver(ctx, work, &track, receiver, Way::Peer)
}

/// Nobody out there may use an address of this node's.
#[inline(always)]
fn check_source(work: &mut Work) -> Result<(), Drop> {
    let src = ipcache::find(&work.src, work.event.ip_version, &mut work.prefix);
    work.event.src_identity = src.identity;
    if src.slot != 0 || src.flags & ip_flags::LOCAL_NODE != 0 {
        work.event.direction = direction::INGRESS;
        return Err(Drop::new(drop::INVALID_SOURCE_IP));
    }
    Ok(())
}
