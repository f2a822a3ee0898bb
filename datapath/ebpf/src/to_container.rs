//! Packets that the stack sends to a pod: egress hook of the pod's host-side interface.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use specola_datapath_common::{direction, metrics::drop};

use crate::{
    conntrack, deliver,
    endpoint::Endpoint,
    parse::{self, Network},
    policy,
    skb::{self, mark},
    spoof,
    verdict::{self, Drop, Outcome, PASS},
    work::{Work, class},
};

#[classifier]
fn to_container(ctx: TcContext) -> i32 {
    if skb::marks(&ctx) & mark::INGRESS_DONE != 0 {
        return TC_ACT_OK;
    }
    let Some(work) = Work::begin(&ctx) else {
        return TC_ACT_SHOT;
    };
    work.event.direction = direction::INGRESS;
    let outcome = handle(&ctx, work);
    verdict::finish(work, outcome)
}

#[inline(always)]
fn handle(ctx: &TcContext, work: &mut Work) -> Outcome {
    let receiver = Endpoint::of_interface(work.event.ifindex)?;
    receiver.describe(work, direction::INGRESS);
    match parse::network(ctx, work)? {
        Network::Ip => {}
        Network::Arp => return PASS,
        Network::Other => return Err(Drop::new(drop::UNSUPPORTED_L3)),
    }
    parse::transport(ctx, work)?;
    if work.is(class::NEIGHBOR) {
        return PASS;
    }
    let is_pods = spoof::is_of_pod(ctx, work);
    let track = conntrack::track(ctx, work);
    if !is_pods && policy::settled_from_elsewhere(work, &track, &receiver).is_some() {
        deliver::admit_settled(ctx, work, &track, receiver)?;
        return PASS;
    }
    spoof::check_routed(work, &track, is_pods)?;
    deliver::admit(ctx, work, &track, receiver)?;
    PASS
}
