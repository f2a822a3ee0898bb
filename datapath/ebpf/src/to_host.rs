//! Packets for the host's own stack: ingress hook of the host device.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use specola_datapath_common::event::point;

use crate::{trace, work::Work};

#[classifier]
fn to_host(ctx: TcContext) -> i32 {
    if trace::is_marked(&ctx)
        && let Some(work) = Work::begin(&ctx)
    {
        trace::observe(&ctx, work, point::TO_HOST, true);
    }
    TC_ACT_OK
}
