//! The last stage of every packet for a local pod: the receiver's ingress policy, then the way to it.

use aya_ebpf::programs::TcContext;
use specola_datapath_common::{conntrack::SIDE_RESPONDER, direction, event::point, ipcache::IpInfo};

use crate::{
    conntrack::Track,
    endpoint::Endpoint,
    ipcache,
    policy::{self, Question},
    skb::{self, mark},
    trace,
    verdict::{Drop, Outcome},
    work::Work,
};

/// How a packet gets to the pod.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Way {
    /// Straight into the pod's namespace; tc ingress hooks only.
    Peer,
    /// Out of the pod's host-side interface.
    Egress,
}

/// Whom a packet is for: the pod of this node, if it is one, else what is known of the address.
///
/// # Errors
/// The pod is not ready.
#[inline(always)]
pub(crate) fn receiver(work: &mut Work) -> Result<(Option<Endpoint>, IpInfo), Drop> {
    let version = work.event.ip_version;
    if let Some(pod) = Endpoint::of_address(&work.dst, version) {
        work.event.dst_identity = pod.record.identity;
        return Ok((Some(pod), IpInfo::default()));
    }
    let dst = ipcache::find(&work.dst, version, &mut work.prefix);
    work.event.dst_identity = dst.identity;
    if dst.slot == 0 {
        return Ok((None, dst));
    }
    work.event.direction = direction::INGRESS;
    Ok((Some(Endpoint::of_slot(u32::from(dst.slot))?), dst))
}

/// Asks the receiver's ingress policy and counts the packet.
///
/// # Errors
/// The policy denies, or the connection cannot be tracked.
#[inline(always)]
pub(crate) fn admit(ctx: &TcContext, work: &mut Work, track: &Track, receiver: Endpoint) -> Result<(), Drop> {
    decide(work, track, receiver)?;
    trace::commit(ctx, work, track, Some(point::TO_ENDPOINT)).map(|_| ())
}

/// Counts a packet whose receiver's policy needs not be asked, because its connection remembers the answer.
///
/// # Errors
/// The connection cannot be tracked.
#[inline(always)]
pub(crate) fn admit_settled(
    ctx: &TcContext,
    work: &mut Work,
    track: &Track,
    receiver: Endpoint,
) -> Result<(), Drop> {
    receiver.enter(work, direction::INGRESS);
    work.event.dst_identity = receiver.record.identity;
    trace::commit(ctx, work, track, Some(point::TO_ENDPOINT)).map(|_| ())
}

/// [`admit`], then sends the packet on.
///
/// # Errors
/// As [`admit`]; or the packet cannot be written.
#[inline(always)]
pub(crate) fn deliver(
    ctx: &TcContext,
    work: &mut Work,
    track: &Track,
    receiver: Endpoint,
    way: Way,
) -> Outcome {
    decide(work, track, receiver)?;
    hand_over(ctx, work, track, receiver, way)
}

/// Sends a packet on whose receiver's policy needs not be asked, because its connection remembers the answer.
///
/// # Errors
/// The packet cannot be written.
#[inline(always)]
pub(crate) fn deliver_settled(
    ctx: &TcContext,
    work: &mut Work,
    track: &Track,
    receiver: Endpoint,
    way: Way,
) -> Outcome {
    receiver.enter(work, direction::INGRESS);
    work.event.dst_identity = receiver.record.identity;
    hand_over(ctx, work, track, receiver, way)
}

#[inline(always)]
fn hand_over(ctx: &TcContext, work: &mut Work, track: &Track, receiver: Endpoint, way: Way) -> Outcome {
    skb::set_macs(ctx, receiver.mac(), receiver.host_mac())?;
    trace::commit(ctx, work, track, Some(point::TO_ENDPOINT))?;
    skb::set_marks(ctx, mark::INGRESS_DONE);
    Ok(match way {
        Way::Peer => skb::redirect_peer(receiver.record.ifindex),
        Way::Egress => skb::redirect_egress(receiver.record.ifindex),
    })
}

#[inline(always)]
fn decide(work: &mut Work, track: &Track, receiver: Endpoint) -> Result<(), Drop> {
    work.event.dst_identity = receiver.record.identity;
    let question = Question {
        endpoint: receiver,
        side: SIDE_RESPONDER,
        peer: work.event.src_identity,
        direction: direction::INGRESS,
    };
    policy::decide(work, track, &question)
}
