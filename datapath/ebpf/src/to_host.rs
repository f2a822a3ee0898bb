//! Packets for the host's own stack: ingress hook of the host device.

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
    trace,
    verdict::{self, Drop},
    work::{Work, class},
};

#[classifier]
fn to_host(ctx: TcContext) -> i32 {
    if host::is_on() {
        let Some(work) = Work::begin(&ctx) else {
            return TC_ACT_SHOT;
        };
        work.event.direction = direction::INGRESS;
        if let Err(drop) = check(&ctx, work) {
            return verdict::finish(work, Err(drop));
        }
    }
    if trace::is_marked(&ctx)
        && let Some(work) = Work::begin(&ctx)
    {
        trace::observe(&ctx, work, point::TO_HOST, true);
    }
    TC_ACT_OK
}

/// Asks the node's own ingress policy about a packet that a pod sends to it.
///
/// # Errors
/// Policy is enforced, and denies the packet or cannot judge it.
#[inline(always)]
fn check(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    let Some(host) = Host::find() else {
        return Ok(());
    };
    let parsed = match parse::network(ctx, work) {
        Ok(Network::Ip) => parse::transport(ctx, work),
        Ok(_) => return Ok(()),
        Err(drop) => Err(drop),
    };
    match parsed {
        Err(drop) if host.is_strict => return Err(drop),
        Err(_) => return Ok(()),
        Ok(()) if work.is(class::NEIGHBOR) => return Ok(()),
        Ok(()) => {}
    }
    let version = work.event.ip_version;
    let dst = ipcache::find(&work.dst, version, &mut work.prefix);
    if !host::is_own(&work.dst, &dst, version) {
        return Ok(());
    }
    work.event.src_identity = ipcache::find(&work.src, version, &mut work.prefix).identity;
    host.receive_of_pod(ctx, work)
}
