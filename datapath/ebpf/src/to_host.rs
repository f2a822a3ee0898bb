//! Packets for the host's own stack: ingress hook of the host device.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use specola_datapath_common::event::point;

use crate::{trace, verdict, work::Work};

#[classifier]
fn to_host(ctx: TcContext) -> i32 {
    if !trace::is_marked(&ctx) {
        return TC_ACT_OK;
    }
    let Some(work) = Work::begin(&ctx) else {
        return TC_ACT_OK;
    };
    let outcome = trace::observe(&ctx, work, point::TO_HOST, true);
    verdict::finish(work, outcome)
}
