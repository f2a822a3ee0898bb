//! Packets that the host's stack sends to pods: egress hook of the host device.

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use specola_datapath_common::direction;

use crate::{
    conntrack,
    deliver::{self, Way},
    host::{self, Host},
    ipcache,
    parse::{self, Network},
    policy, spoof,
    verdict::{self, Drop, Outcome, PASS},
    work::{Work, class},
};

#[classifier]
fn from_host(ctx: TcContext) -> i32 {
    let Some(work) = Work::begin(&ctx) else {
        return TC_ACT_SHOT;
    };
    let outcome = handle(&ctx, work);
    verdict::finish(work, outcome)
}

#[inline(always)]
fn handle(ctx: &TcContext, work: &mut Work) -> Outcome {
    let Network::Ip = parse::network(ctx, work)? else {
        return PASS;
    };
    let (Some(receiver), _) = deliver::receiver(work)? else {
        return PASS;
    };
    receiver.describe(work, direction::INGRESS);
    parse::transport(ctx, work)?;
    let is_pods = spoof::is_of_pod(ctx, work);
    if !is_pods && host::is_on() {
        check_node(ctx, work)?;
        receiver.describe(work, direction::INGRESS);
    }
    let track = conntrack::track(ctx, work);
    if !is_pods && policy::settled_from_elsewhere(work, &track, &receiver).is_some() {
        return deliver::deliver_settled(ctx, work, &track, receiver, Way::Egress);
    }
    spoof::check_routed(work, &track, is_pods)?;
    deliver::deliver(ctx, work, &track, receiver, Way::Egress)
}

/// Asks the node's own egress policy, if the node itself sends the packet.
///
/// # Errors
/// Policy is enforced, and denies the packet or cannot judge it.
#[inline(always)]
fn check_node(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    let Some(host) = Host::find() else {
        return Ok(());
    };
    let version = work.event.ip_version;
    let src = ipcache::find(&work.src, version, &mut work.prefix);
    if work.is(class::NEIGHBOR) || !host::is_own(&work.src, &src, version) {
        return Ok(());
    }
    host.send_to_pod(ctx, work)
}
