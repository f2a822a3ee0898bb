//! Folding: under a flood of denies the kernel counts packets instead of writing a record for each.
//!
//! Packets of one [`FoldKey`] have records of their own up to a limit per second. What goes beyond it is counted in the
//! key's [`FoldCount`]; user space turns the growth of the count into one record per second with [`Event::fold`] set.
//! The key holds everything that a record says about who denied what, so that the count is attributed exactly.

use crate::{
    event::{Event, flags},
    proto,
};

/// What denied packets have in common that are counted together.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct FoldKey {
    /// [`Event::src_identity`].
    pub src_identity: u32,
    /// [`Event::dst_identity`].
    pub dst_identity: u32,
    /// [`Event::cookie`].
    pub cookie: u32,
    /// [`Event::revision`].
    pub revision: u32,
    /// [`Event::endpoint_slot`].
    pub endpoint_slot: u16,
    /// [`Event::endpoint_id`].
    pub endpoint_id: u16,
    /// [`Event::dst_port`]; ICMP: the type.
    pub port: u16,
    /// [`Event::proto`].
    pub proto: u8,
    /// [`Event::ip_version`].
    pub ip_version: u8,
    /// [`Event::kind`].
    pub kind: u8,
    /// Minus [`Event::verdict`]; 0 when the packet was only audited.
    pub reason: u8,
    /// [`Event::direction`].
    pub direction: u8,
    /// [`Event::match_type`].
    pub match_type: u8,
    /// Of [`Event::flags`]: audit and fragment.
    pub flags: u8,
    /// Must be zero.
    pub pad: [u8; 3],
}

/// What is counted for one key. Written by the kernel programs only; several CPUs share it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FoldCount {
    /// `bpf_ktime_get_boot_ns` of the first packet of this entry: tells it from an earlier one of the same key.
    pub created_ns: u64,
    /// Second (of the time since boot) of the latest packet.
    pub window: u64,
    /// Records written in this second.
    pub verbatim: u64,
    /// Second in which the sample was stored.
    pub sample_window: u64,
    /// Packets that have no record of their own, since the entry was made.
    pub packets: u64,
    /// Their bytes, with link headers.
    pub bytes: u64,
    /// `bpf_ktime_get_boot_ns` of the latest of them.
    pub last_ns: u64,
}

/// How much of a [`FoldCount`] was reported. Written by user space only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FoldSeen {
    /// [`FoldCount::created_ns`] of the entry.
    pub created_ns: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keys that are counted at a time. Packets of further keys have records of their own.
pub const FOLD_ENTRIES: u32 = 4096;
/// Length of a [`FoldCount::window`], ns.
pub const FOLD_WINDOW_NS: u64 = 1_000_000_000;

const _: () = assert!(size_of::<FoldKey>() == 32);
const _: () = assert!(size_of::<FoldCount>() == 56);
const _: () = assert!(size_of::<FoldSeen>() == 24);

impl FoldKey {
    /// The key of a packet's record.
    #[inline(always)]
    pub const fn of(event: &Event) -> Self {
        let is_icmp = event.proto == proto::ICMP || event.proto == proto::ICMPV6;
        Self {
            src_identity: event.src_identity,
            dst_identity: event.dst_identity,
            cookie: event.cookie,
            revision: event.revision,
            endpoint_slot: event.endpoint_slot,
            endpoint_id: event.endpoint_id,
            port: if is_icmp { event.icmp_type as u16 } else { event.dst_port },
            proto: event.proto,
            ip_version: event.ip_version,
            kind: event.kind,
            reason: event.verdict.wrapping_neg() as u8,
            direction: event.direction,
            match_type: event.match_type,
            flags: event.flags & (flags::AUDIT | flags::FRAGMENT),
            pad: [0; 3],
        }
    }
}

#[cfg(feature = "user")]
impl FoldKey {
    /// A record with everything that the key says, and no addresses.
    pub fn to_event(&self) -> Event {
        let is_icmp = self.proto == proto::ICMP || self.proto == proto::ICMPV6;
        let [icmp_type, _] = self.port.to_le_bytes();
        Event {
            kind: self.kind,
            lane: crate::event::lane::DENY,
            flags: self.flags,
            endpoint_slot: self.endpoint_slot,
            endpoint_id: self.endpoint_id,
            ip_version: self.ip_version,
            proto: self.proto,
            src_identity: self.src_identity,
            dst_identity: self.dst_identity,
            dst_port: if is_icmp { 0 } else { self.port },
            icmp_type: if is_icmp { icmp_type } else { 0 },
            match_type: self.match_type,
            direction: self.direction,
            verdict: -i32::from(self.reason),
            cookie: self.cookie,
            revision: self.revision,
            ..Event::zeroed()
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::event::kind;

    #[test]
    fn a_key_and_its_record_say_the_same() {
        let denied = Event {
            kind: kind::POLICY_VERDICT,
            src_identity: 1,
            dst_identity: 2,
            cookie: 3,
            revision: 4,
            endpoint_slot: 5,
            endpoint_id: 6,
            dst_port: 0x1234,
            proto: proto::TCP,
            ip_version: crate::IPV4,
            verdict: -181,
            direction: crate::direction::EGRESS,
            match_type: 2,
            flags: flags::FRAGMENT | flags::MID_STREAM,
            ..Event::zeroed()
        };
        let ping = Event { proto: proto::ICMPV6, dst_port: 0, icmp_type: 128, ..denied };
        let audited = Event { verdict: 0, flags: flags::AUDIT, ..denied };
        for event in [denied, ping, audited] {
            let key = FoldKey::of(&event);
            assert_eq!(FoldKey::of(&key.to_event()), key, "{event:?}");
            let again = key.to_event();
            assert_eq!((again.verdict, again.dst_port), (event.verdict, event.dst_port));
            assert_eq!((again.cookie, again.icmp_type), (event.cookie, event.icmp_type));
        }
        assert_eq!(FoldKey::of(&ping).port, 128);
        assert_ne!(FoldKey::of(&denied), FoldKey::of(&audited));
    }
}
