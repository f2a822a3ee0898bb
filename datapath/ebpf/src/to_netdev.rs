//! Packets to the network: egress hook of a node device.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use specola_datapath_common::event::point;

use crate::{trace, work::Work};

#[classifier]
fn to_netdev(ctx: TcContext) -> i32 {
    if trace::is_marked(&ctx)
        && let Some(work) = Work::begin(&ctx)
    {
        trace::observe(&ctx, work, point::TO_NETWORK, false);
    }
    TC_ACT_OK
}
