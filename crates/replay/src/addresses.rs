//! Address to identity: whole addresses first, then the longest prefix.

use std::collections::{BTreeMap, HashMap};

use specola_datapath_common::{
    IPV4, identity,
    ipcache::{IpInfo, IpKey, IpPrefixKey},
};

use crate::work::Address;

/// What is known of addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    whole: HashMap<IpKey, IpInfo>,
    prefixes: HashMap<IpPrefixKey, IpInfo>,
    /// How many prefixes have a length.
    lengths: BTreeMap<u32, usize>,
    dual_stack: bool,
}

impl Addresses {
    pub(crate) fn new(dual_stack: bool) -> Self {
        Self { whole: HashMap::new(), prefixes: HashMap::new(), lengths: BTreeMap::new(), dual_stack }
    }

    /// Adds or replaces what is known of a prefix or, with 128 bits, of an address.
    pub(crate) fn insert(&mut self, key: IpPrefixKey, info: IpInfo) {
        let key = IpPrefixKey { addr: masked(key.addr, key.prefix_len), prefix_len: key.prefix_len.min(128) };
        if key.prefix_len == 128 {
            self.whole.insert(IpKey { addr: key.addr }, info);
        } else if self.prefixes.insert(key, info).is_none() {
            *self.lengths.entry(key.prefix_len).or_default() += 1;
        }
    }

    /// What is known of an address; an unknown one belongs to the world.
    pub(crate) fn find(&self, addr: &Address, version: u8) -> IpInfo {
        if let Some(info) = self.whole.get(&IpKey { addr: *addr }) {
            return *info;
        }
        for prefix_len in self.lengths.keys().rev() {
            let key = IpPrefixKey { prefix_len: *prefix_len, addr: masked(*addr, *prefix_len) };
            if let Some(info) = self.prefixes.get(&key) {
                return *info;
            }
        }
        IpInfo { identity: self.world(version), ..IpInfo::default() }
    }

    const fn world(&self, version: u8) -> u32 {
        match (self.dual_stack, version) {
            (false, _) => identity::WORLD,
            (true, IPV4) => identity::WORLD_IPV4,
            (true, _) => identity::WORLD_IPV6,
        }
    }
}

fn masked(addr: Address, prefix_len: u32) -> Address {
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix_len)).unwrap_or(0);
    (u128::from_be_bytes(addr) & mask).to_be_bytes()
}
