//! Ports of fragmented datagrams: the first fragment leaves them here, later ones take them.

use specola_datapath_common::proto;

use crate::{
    lru::Lru,
    work::{Address, Work, class},
};

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct FragmentKey {
    src: Address,
    dst: Address,
    id: u32,
    proto: u8,
}

/// Ports that the fields of [`Work`] get; for ICMP the echo id, and the type as the policy's port.
#[derive(Clone, Copy, Debug)]
struct Ports {
    ct_src: u16,
    ct_dst: u16,
    policy: u16,
    class: u16,
    src: u16,
    dst: u16,
}

/// Datagrams whose first fragment was seen. A full table forgets the oldest.
#[derive(Debug)]
pub(crate) struct Fragments(Lru<FragmentKey, Ports>);

/// Datagrams that are remembered, as many as the kernel programs do.
const DATAGRAMS: usize = 8192;
/// What of [`class`] later fragments share with the first one.
const SHARED: u16 = class::UNTRACKED;

/// Where a packet stands in a fragmented datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fragment {
    /// Not fragmented.
    No,
    /// Begins with the transport header.
    First(u32),
    /// Has no transport header.
    Later(u32),
}

impl Fragments {
    pub(crate) fn new() -> Self {
        Self(Lru::new(DATAGRAMS))
    }

    /// Keeps the ports of a first fragment.
    pub(crate) fn remember(&mut self, work: &Work, id: u32) {
        let ports = Ports {
            ct_src: work.ct_src_port,
            ct_dst: work.ct_dst_port,
            policy: work.policy_port,
            class: work.class & SHARED,
            src: work.event.src_port,
            dst: work.event.dst_port,
        };
        // Fragments of a datagram that had to go are judged as those of an unknown one, and reported as such.
        self.0.insert(key(work, id), ports);
    }

    /// Gives a later fragment the ports of its first one, or says that nobody knows them.
    pub(crate) fn recall(&mut self, work: &mut Work, id: u32) {
        let Some(place) = self.0.find(&key(work, id)) else {
            work.class |= class::NO_PORTS | class::UNTRACKED;
            return;
        };
        let ports = *self.0.at(place);
        work.ct_src_port = ports.ct_src;
        work.ct_dst_port = ports.ct_dst;
        work.policy_port = ports.policy;
        work.class |= ports.class;
        work.event.src_port = ports.src;
        work.event.dst_port = ports.dst;
        if matches!(work.event.proto, proto::ICMP | proto::ICMPV6) {
            work.event.icmp_type = (ports.policy & 0xff) as u8;
        }
    }
}

const fn key(work: &Work, id: u32) -> FragmentKey {
    FragmentKey { src: work.event.src_addr, dst: work.event.dst_addr, id, proto: work.event.proto }
}
