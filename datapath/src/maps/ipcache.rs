//! Addresses and what is known of them. Whole addresses are in a hash; prefixes in a trie that is asked on a miss.

use std::collections::HashMap as StdHashMap;
use std::net::Ipv6Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use specola_datapath_common::ipcache::{IpInfo, IpKey};
use specola_datapath_common::{names, v4_mapped};

use super::endpoints::is_not_found;
use super::plain::Plain;
use super::{MapSource, MapsError, take_as};

/// The hash and the trie.
#[derive(Debug)]
pub(crate) struct Ipcache {
    whole: HashMap<MapData, Plain<IpKey>, Plain<IpInfo>>,
    prefixes: LpmTrie<MapData, [u8; 16], Plain<IpInfo>>,
}

impl Ipcache {
    pub(crate) fn open(maps: &mut impl MapSource) -> Result<Self, MapsError> {
        Ok(Self { whole: take_as(maps, names::IPCACHE)?, prefixes: take_as(maps, names::IPCACHE_LPM)? })
    }

    /// Sets what is known of a prefix.
    pub(crate) fn upsert(&mut self, net: IpNet, info: IpInfo) -> Result<(), MapsError> {
        match Place::of(net) {
            Place::Whole(key) => self
                .whole
                .insert(Plain(key), Plain(info), 0)
                .map_err(MapsError::kernel(names::IPCACHE, "insert")),
            Place::Prefix(bits, addr) => self
                .prefixes
                .insert(&Key::new(bits, addr), Plain(info), 0)
                .map_err(MapsError::kernel(names::IPCACHE_LPM, "insert")),
        }
    }

    /// Forgets a prefix. Gives whether it was known.
    pub(crate) fn remove(&mut self, net: IpNet) -> Result<bool, MapsError> {
        let (name, result) = match Place::of(net) {
            Place::Whole(key) => (names::IPCACHE, self.whole.remove(&Plain(key))),
            Place::Prefix(bits, addr) => (names::IPCACHE_LPM, self.prefixes.remove(&Key::new(bits, addr))),
        };
        match result {
            Ok(()) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(MapsError::kernel(name, "remove")(error)),
        }
    }

    /// Everything that is known.
    pub(crate) fn entries(&self) -> Result<StdHashMap<IpNet, IpInfo>, MapsError> {
        let mut all = StdHashMap::new();
        for entry in &self.whole {
            let (Plain(key), Plain(info)) = entry.map_err(MapsError::kernel(names::IPCACHE, "list"))?;
            all.insert(net_of(128, key.addr), info);
        }
        for entry in &self.prefixes {
            let (key, Plain(info)) = entry.map_err(MapsError::kernel(names::IPCACHE_LPM, "list"))?;
            all.insert(net_of(key.prefix_len(), key.data()), info);
        }
        Ok(all)
    }

    /// Changes what differs. Gives how many entries were written or removed.
    pub(crate) fn become_equal_to(&mut self, wanted: &StdHashMap<IpNet, IpInfo>) -> Result<usize, MapsError> {
        // Two spellings of one prefix are one entry.
        let wanted: StdHashMap<IpNet, IpInfo> =
            wanted.iter().map(|(net, info)| (net.trunc(), *info)).collect();
        let have = self.entries()?;
        let mut changed = 0;
        for (net, info) in wanted.iter().filter(|(net, info)| have.get(net) != Some(info)) {
            self.upsert(*net, *info)?;
            changed += 1;
        }
        for net in have.keys().filter(|net| !wanted.contains_key(net)) {
            self.remove(*net)?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// Where a prefix is kept.
#[derive(Debug, Eq, PartialEq)]
enum Place {
    Whole(IpKey),
    Prefix(u32, [u8; 16]),
}

impl Place {
    fn of(net: IpNet) -> Self {
        let net = net.trunc();
        let (bits, addr) = match net {
            IpNet::V4(net) => (96 + u32::from(net.prefix_len()), v4_mapped(net.addr().octets())),
            IpNet::V6(net) => (u32::from(net.prefix_len()), net.addr().octets()),
        };
        if bits == 128 { Self::Whole(IpKey { addr }) } else { Self::Prefix(bits, addr) }
    }
}

/// Undoes [`Place::of`]: a prefix of 96 bits or more inside `::ffff:0:0/96` is an IPv4 one.
fn net_of(bits: u32, addr: [u8; 16]) -> IpNet {
    let address = Ipv6Addr::from(addr);
    let bits = u8::try_from(bits).unwrap_or(128).min(128);
    match (address.to_ipv4_mapped(), bits.checked_sub(96)) {
        (Some(v4), Some(bits)) => IpNet::V4(Ipv4Net::new_assert(v4, bits)),
        _ => IpNet::V6(Ipv6Net::new_assert(address, bits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_find_their_place_and_back() {
        for (text, bits) in [
            ("10.0.0.1/32", 128),
            ("10.0.0.0/8", 104),
            ("0.0.0.0/0", 96),
            ("fd00::1/128", 128),
            ("fd00::/64", 64),
            ("::/0", 0),
        ] {
            let net: IpNet = text.parse().unwrap();
            let (have, addr) = match Place::of(net) {
                Place::Whole(key) => (128, key.addr),
                Place::Prefix(bits, addr) => (bits, addr),
            };
            assert_eq!(have, bits, "{text}");
            assert_eq!(net_of(have, addr), net, "{text}");
        }
    }

    #[test]
    fn host_bits_do_not_count() {
        assert_eq!(Place::of("10.1.2.3/8".parse().unwrap()), Place::of("10.0.0.0/8".parse().unwrap()));
    }
}
