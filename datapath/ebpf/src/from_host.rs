//! Packets that the host's stack sends to pods: egress hook of the host device.

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use specola_datapath_common::direction;

use crate::{
    conntrack,
    deliver::{self, Way},
    endpoint::Endpoint,
    ipcache,
    parse::{self, Network},
    policy, spoof,
    verdict::{self, Outcome, PASS},
    work::Work,
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
    let version = work.event.ip_version;
    let receiver = match Endpoint::of_address(&work.dst, version) {
        Some(receiver) => receiver,
        None => {
            let dst = ipcache::find(&work.dst, version, &mut work.prefix);
            if dst.slot == 0 {
                return PASS;
            }
            work.event.dst_identity = dst.identity;
            work.event.direction = direction::INGRESS;
            Endpoint::of_slot(u32::from(dst.slot))?
        }
    };
    work.event.dst_identity = receiver.record.identity;
    receiver.describe(work, direction::INGRESS);
    parse::transport(ctx, work)?;
    let is_pods = spoof::is_of_pod(ctx, work);
    let track = conntrack::track(ctx, work);
    if !is_pods && policy::settled_from_elsewhere(work, &track, &receiver).is_some() {
        return deliver::deliver_settled(ctx, work, &track, receiver, Way::Egress);
    }
    spoof::check_routed(work, &track, is_pods)?;
    deliver::deliver(ctx, work, &track, receiver, Way::Egress)
}
