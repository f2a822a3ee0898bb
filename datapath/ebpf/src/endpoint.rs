//! The endpoint table.

use core::ptr;

use specola_datapath_common::{
    IPV4,
    endpoint::{EndpointRecord, IFINDEX_HINTS, PolicyState, address_hint},
    metrics::drop,
};

use crate::{
    address::{Address, Mac, Quads},
    maps::{SP_ADDRESS_HINT, SP_ENDPOINTS, SP_IFINDEX_HINT, SP_IFINDEX_SLOT},
    verdict::Drop,
    work::Work,
};

/// A local endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) slot: u32,
    pub(crate) record: &'static EndpointRecord,
}

impl Endpoint {
    /// The endpoint whose host-side interface this is.
    ///
    /// # Errors
    /// There is none, or its slot is free: it is not ready.
    #[inline(always)]
    pub(crate) fn of_interface(ifindex: u32) -> Result<Self, Drop> {
        if let Some(&slot) = SP_IFINDEX_HINT.get(ifindex & (IFINDEX_HINTS - 1))
            && let Ok(endpoint) = Self::of_slot(slot as u32)
            && endpoint.record.ifindex == ifindex
        {
            return Ok(endpoint);
        }
        // SAFETY: only user space writes the map; the value is copied at once.
        match unsafe { SP_IFINDEX_SLOT.get(&ifindex) } {
            Some(&slot) => Self::of_slot(slot),
            None => Err(Drop::new(drop::EP_NOT_READY)),
        }
    }

    /// The pod that has an address, if the hint leads to it. Without a hint nothing is known.
    #[inline(always)]
    pub(crate) fn of_address(address: &Address, version: u8) -> Option<Self> {
        let slot = SP_ADDRESS_HINT.get(address_hint(address.numbers()[1]))?;
        let endpoint = Self::of_slot(*slot as u32).ok()?;
        let is_its = if version == IPV4 {
            let own = endpoint.ipv4();
            own != 0 && own == address.v4()
        } else {
            !address.is_unspecified() && endpoint.ipv6().0 == address.quads().0
        };
        is_its.then_some(endpoint)
    }

    /// The endpoint in a slot.
    ///
    /// # Errors
    /// The slot is free: the endpoint is not ready.
    #[inline(always)]
    pub(crate) fn of_slot(slot: u32) -> Result<Self, Drop> {
        match SP_ENDPOINTS.get(slot) {
            Some(record) if record.identity != 0 => Ok(Self { slot, record }),
            _ => Err(Drop::new(drop::EP_NOT_READY)),
        }
    }

    /// The state in force and the word that says so, read once.
    #[inline(always)]
    pub(crate) fn policy(&self) -> (u64, PolicyState) {
        // SAFETY: the reference is valid; user space stores the word while we read it, by one aligned 8-byte store.
        let word = unsafe { ptr::read_volatile(&raw const self.record.word) };
        let state =
            if EndpointRecord::active(word) == 0 { self.record.policy[0] } else { self.record.policy[1] };
        (word, state)
    }

    /// [`Self::describe`], with what is in force for the endpoint. Gives its epoch and its state.
    #[inline(always)]
    pub(crate) fn enter(&self, work: &mut Work, direction: u8) -> (u64, PolicyState) {
        self.describe(work, direction);
        let (word, state) = self.policy();
        work.event.epoch = EndpointRecord::epoch(word);
        work.event.revision = state.revision;
        (word, state)
    }

    /// Makes the draft of the record one about this endpoint.
    #[inline(always)]
    pub(crate) fn describe(&self, work: &mut Work, direction: u8) {
        let event = &mut work.event;
        event.endpoint_slot = self.slot as u16;
        event.endpoint_id = self.record.id;
        event.direction = direction;
    }

    /// Link address of the pod.
    #[inline(always)]
    pub(crate) fn mac(&self) -> Mac {
        // SAFETY: 6 bytes on a 2-byte boundary (`keys` asserts it).
        unsafe { *(&raw const self.record.mac).cast() }
    }

    /// Link address of the host-side interface.
    #[inline(always)]
    pub(crate) fn host_mac(&self) -> Mac {
        // SAFETY: as above.
        unsafe { *(&raw const self.record.host_mac).cast() }
    }

    /// IPv4 address in memory order; 0 = none.
    #[inline(always)]
    pub(crate) fn ipv4(&self) -> u32 {
        // SAFETY: 4 bytes on a 4-byte boundary (`keys` asserts it).
        unsafe { *(&raw const self.record.ipv4).cast() }
    }

    /// IPv6 address; zero = none.
    #[inline(always)]
    pub(crate) fn ipv6(&self) -> Quads {
        // SAFETY: 16 bytes on a 4-byte boundary (`keys` asserts it).
        unsafe { *(&raw const self.record.ipv6).cast() }
    }
}
