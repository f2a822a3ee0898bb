//! Specola's kernel programs: one file per hook, one small module per stage.
//!
//! A packet is parsed once into the per-CPU [`work::Work`]; stages read and write it there. `from_container` asks the
//! sender's egress policy, [`deliver`] the receiver's ingress policy, whichever hook the packet came through.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a map key or value passed by value would be copied to the stack of 512 bytes"
)]
#![expect(internal_features, reason = "the only way to an atomic add on this target")]

mod address;
#[cfg(feature = "bench")]
mod bench;
mod config;
mod conntrack;
mod deliver;
mod endpoint;
mod event;
mod fold;
mod fragment;
mod from_container;
mod from_host;
mod from_netdev;
mod host;
mod ipcache;
mod keys;
mod maps;
mod parse;
mod policy;
mod skb;
mod spoof;
mod to_container;
mod to_host;
mod to_netdev;
mod trace;
mod verdict;
mod wake;
mod work;

/// The kernel lends GPL-only helpers to programs under this licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could reach this.
    loop {}
}
