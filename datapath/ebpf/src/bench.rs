//! Programs for the benchmark `datapath/benches/packets.rs`: in no object but its own.
//!
//! `BPF_PROG_TEST_RUN` repeats one packet. The driver makes it another one each time, undoes what the program before
//! did to it, and calls the program that is measured; the empty program shows what that costs.

mod plan;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use specola_datapath_common::direction;

use self::plan::{IS_IPV6, MAX_PROGRAMS, MAX_TUPLES, PEER_IS_DESTINATION, Plan, SWAP_PORTS, Tuple};
use crate::{conntrack, endpoint::Endpoint, ipcache, parse, policy, skb, work::Work};

#[btf_map]
static BN_PLAN: Array<Plan, 1> = Array::new();

#[btf_map]
static BN_TUPLES: Array<Tuple, { MAX_TUPLES as usize }> = Array::new();

#[btf_map]
static BN_PROGRAMS: ProgramArray<{ MAX_PROGRAMS as usize }> = ProgramArray::new();

/// Makes the next packet and calls the program under test.
#[classifier]
fn bench_driver(ctx: TcContext) -> i32 {
    let Some(program) = prepare(&ctx) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: nothing here wants to be dropped.
    unsafe { BN_PROGRAMS.tail_call(&ctx, program) };
    TC_ACT_SHOT
}

#[inline(always)]
fn prepare(ctx: &TcContext) -> Option<u32> {
    let plan = BN_PLAN.get_ptr_mut(0)?;
    // SAFETY: the benchmark runs one packet at a time.
    let plan = unsafe { &mut *plan };
    let tuple = BN_TUPLES.get(plan.next & plan.mask)?;
    plan.next = plan.next.wrapping_add(1);
    skb::set_all_marks(ctx, plan.mark);
    let start = ctx.data();
    // Link header, network header, ports.
    let (address_at, ports_at) = if plan.flags & IS_IPV6 != 0 { (14 + 8 + 12, 54) } else { (14 + 12, 34) };
    if start + 58 > ctx.data_end() {
        return None;
    }
    let address_at = match (plan.flags & PEER_IS_DESTINATION != 0, plan.flags & IS_IPV6 != 0) {
        (false, _) => address_at,
        (true, false) => address_at + 4,
        (true, true) => address_at + 16,
    };
    let (a, b) = if plan.flags & SWAP_PORTS == 0 {
        (tuple.src_port, tuple.dst_port)
    } else {
        (tuple.dst_port, tuple.src_port)
    };
    // SAFETY: all offsets are below 58, which the packet has, as just compared.
    unsafe {
        *(start as *mut [u16; 6]) = plan.macs;
        *((start + address_at) as *mut [u16; 2]) = core::mem::transmute::<u32, [u16; 2]>(tuple.peer);
        *((start + ports_at) as *mut [u16; 2]) = [a, b];
    }
    Some(plan.program)
}

/// What the driver itself costs.
#[classifier]
fn bench_empty(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Parsing.
#[classifier]
fn bench_parse(ctx: TcContext) -> i32 {
    stages(&ctx, 1)
}

/// Parsing, and the connection.
#[classifier]
fn bench_conntrack(ctx: TcContext) -> i32 {
    stages(&ctx, 2)
}

/// Parsing, the connection, and both addresses.
#[classifier]
fn bench_ipcache(ctx: TcContext) -> i32 {
    stages(&ctx, 3)
}

/// Parsing, the connection, both addresses, and one endpoint's policy.
#[classifier]
fn bench_policy(ctx: TcContext) -> i32 {
    stages(&ctx, 4)
}

#[inline(always)]
fn stages(ctx: &TcContext, count: u32) -> i32 {
    let Some(work) = Work::begin(ctx) else {
        return TC_ACT_SHOT;
    };
    let (Ok(_), Ok(())) = (parse::network(ctx, work), parse::transport(ctx, work)) else {
        return TC_ACT_SHOT;
    };
    if count >= 2 {
        let track = conntrack::track(ctx, work);
        work.event.ct_state = track.state;
    }
    if count >= 3 {
        let version = work.event.ip_version;
        work.event.src_identity = ipcache::find(&work.src, version, &mut work.prefix).identity;
        work.event.dst_identity = ipcache::find(&work.dst, version, &mut work.prefix).identity;
    }
    if count >= 4 {
        let Ok(endpoint) = Endpoint::of_interface(work.event.ifindex) else {
            return TC_ACT_SHOT;
        };
        let peer = work.event.dst_identity;
        work.event.cookie = policy::lookup(work, endpoint, peer, direction::EGRESS);
    }
    TC_ACT_OK
}
