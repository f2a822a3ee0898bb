//! Addresses: whole ones in a hash map, prefixes in one hash map per length.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use specola_flow::MetaHandle;

/// What an address or prefix stands for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct IpEntry {
    /// Security identity.
    pub identity: u32,
    /// Who it is; [`MetaHandle::NONE`] = whoever has the identity.
    pub meta: MetaHandle,
    /// Endpoint id when it is local, else 0.
    pub endpoint: u16,
}

/// Longest-prefix look-up by 16-byte addresses, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    whole: HashMap<u128, IpEntry>,
    prefixes: BTreeMap<Reverse<u8>, HashMap<u128, IpEntry>>,
}

/// Bits of a whole address.
const WHOLE: u8 = 128;

impl Addresses {
    /// Sets what a prefix stands for and returns what it stood for.
    pub fn insert(&mut self, prefix: IpNet, entry: IpEntry) -> Option<IpEntry> {
        let (bits, length) = mapped_prefix(prefix);
        if length == WHOLE {
            self.whole.insert(bits, entry)
        } else {
            self.prefixes.entry(Reverse(length)).or_default().insert(bits, entry)
        }
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &IpEntry> {
        self.whole.values().chain(self.prefixes.values().flat_map(HashMap::values))
    }

    /// Forgets a prefix and returns what it stood for.
    pub fn remove(&mut self, prefix: IpNet) -> Option<IpEntry> {
        let (bits, length) = mapped_prefix(prefix);
        if length == WHOLE {
            return self.whole.remove(&bits);
        }
        let same_length = self.prefixes.get_mut(&Reverse(length))?;
        let entry = same_length.remove(&bits);
        if same_length.is_empty() {
            self.prefixes.remove(&Reverse(length));
        }
        entry
    }

    /// The entry of the longest prefix that contains the address.
    pub fn lookup(&self, address: [u8; 16]) -> Option<&IpEntry> {
        let bits = u128::from_be_bytes(address);
        self.whole.get(&bits).or_else(|| {
            self.prefixes
                .iter()
                .find_map(|(Reverse(length), same_length)| same_length.get(&(bits & mask(*length))))
        })
    }

    /// Number of addresses and prefixes.
    pub fn len(&self) -> usize {
        self.whole.len() + self.prefixes.values().map(HashMap::len).sum::<usize>()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An address as 16 bytes, IPv4 as `::ffff:a.b.c.d`: the form of the kernel's events.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn mapped_prefix(prefix: IpNet) -> (u128, u8) {
    let length = match prefix {
        IpNet::V4(v4) => 96 + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    };
    (u128::from_be_bytes(mapped(prefix.network())) & mask(length), length)
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (WHOLE - length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(identity: u32) -> IpEntry {
        IpEntry { identity, ..IpEntry::default() }
    }

    #[test]
    fn longest_prefix_wins() {
        let mut addresses = Addresses::default();
        for (prefix, identity) in [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.1.0.0/16", 3),
            ("10.1.2.3/32", 4),
            ("::/0", 5),
            ("fd00::1/128", 6),
        ] {
            addresses.insert(prefix.parse().unwrap(), entry(identity));
        }
        for (address, identity) in [
            ("10.1.2.3", 4),
            ("10.1.2.4", 3),
            ("10.2.0.0", 2),
            ("11.0.0.0", 1),
            ("fd00::1", 6),
            ("fd00::2", 5),
        ] {
            let found = addresses.lookup(mapped(address.parse().unwrap()));
            assert_eq!(found.map(|entry| entry.identity), Some(identity), "{address}");
        }
        assert_eq!(addresses.len(), 6);
        assert_eq!(addresses.remove("10.1.0.0/16".parse().unwrap()), Some(entry(3)));
        assert_eq!(addresses.remove("10.1.0.0/16".parse().unwrap()), None);
        assert_eq!(addresses.lookup(mapped("10.1.2.4".parse().unwrap())), Some(&entry(2)));
    }

    proptest! {
        #[test]
        fn equals_a_scan(
            prefixes in proptest::collection::vec((any::<u32>(), 0..=32u8), 0..40),
            probes in proptest::collection::vec(any::<u32>(), 1..40),
        ) {
            let mut addresses = Addresses::default();
            let mut list = Vec::new();
            for (index, (bits, length)) in prefixes.into_iter().enumerate() {
                // Few leading bits differ, so that prefixes nest.
                let net = ipnet::Ipv4Net::new((bits & 0x8181_8181).into(), length).unwrap().trunc();
                addresses.insert(net.into(), entry(index as u32));
                list.retain(|(known, _)| *known != net);
                list.push((net, index as u32));
            }
            for probe in probes {
                let ip = std::net::Ipv4Addr::from(probe & 0x8181_8181);
                let best = list.iter().filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len());
                let found = addresses.lookup(mapped(ip.into())).map(|entry| entry.identity);
                prop_assert_eq!(found, best.map(|(_, identity)| *identity));
            }
        }
    }
}
