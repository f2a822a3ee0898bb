//! Specola's kernel programs. One file per hook, small modules per stage.
#![no_std]
#![no_main]

mod config;
mod maps;

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};

/// Packets that leave a pod.
#[classifier]
fn from_container(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Packets that the stack sends to a pod.
#[classifier]
fn to_container(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Packets from the network.
#[classifier]
fn from_netdev(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Packets to the network.
#[classifier]
fn to_netdev(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Packets that the host's stack sends to pods.
#[classifier]
fn from_host(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Packets for the host's own stack.
#[classifier]
fn to_host(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// The kernel lends GPL-only helpers to programs under this licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could reach this.
    loop {}
}
