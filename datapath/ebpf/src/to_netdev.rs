//! Packets to the network: egress hook of a node device.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    macros::classifier,
    programs::TcContext,
};
use specola_datapath_common::{direction, event::point};

use crate::{
    host::{self, Host},
    ipcache,
    parse::{self, Network},
    skb::{self, mark},
    trace,
    verdict::{self, Outcome, PASS},
    work::Work,
};

#[classifier]
fn to_netdev(ctx: TcContext) -> i32 {
    if host::is_on() && skb::marks(&ctx) & mark::FROM_POD == 0 {
        return of_host(&ctx);
    }
    if trace::is_marked(&ctx)
        && let Some(work) = Work::begin(&ctx)
    {
        trace::observe(&ctx, work, point::TO_NETWORK, false);
    }
    TC_ACT_OK
}

#[inline(always)]
fn of_host(ctx: &TcContext) -> i32 {
    if skb::is_of_vlan(ctx) {
        // The device of the VLAN saw it.
        return TC_ACT_OK;
    }
    let Some(work) = Work::begin(ctx) else {
        return TC_ACT_SHOT;
    };
    work.event.direction = direction::EGRESS;
    let outcome = host::finally(handle(ctx, work));
    verdict::finish(work, outcome)
}

#[inline(always)]
fn handle(ctx: &TcContext, work: &mut Work) -> Outcome {
    let Some(host) = Host::find() else {
        return PASS;
    };
    match parse::network(ctx, work) {
        Ok(Network::Ip) => {}
        Err(drop) if host.is_strict => return Err(drop),
        _ => return PASS,
    }
    let version = work.event.ip_version;
    let src = ipcache::find(&work.src, version, &mut work.prefix);
    if !host::is_own(&work.src, &src, version) {
        // Forwarded, or a DHCP client that has no address yet.
        return PASS;
    }
    work.event.dst_identity = ipcache::find(&work.dst, version, &mut work.prefix).identity;
    host.send(ctx, work)
}
