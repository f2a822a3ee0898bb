//! Addresses of this node's pods, from its pod CIDRs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::persist::{self, PersistError};

/// Why an address could not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpamError {
    #[error(
        "no address is free in pod CIDR {cidr} ({used} in use); delete pods or give the node a larger CIDR"
    )]
    Exhausted { cidr: IpNet, used: usize },
    #[error("pod CIDR {0} is too small; it needs at least 4 addresses")]
    TooSmall(IpNet),
    #[error("node has two pod CIDRs of one family: {0} and {1}; leave one in spec.podCIDRs")]
    Family(IpNet, IpNet),
    #[error("node has no pod CIDR; set spec.podCIDRs of its Node object")]
    NoCidr,
    #[error(transparent)]
    State(#[from] PersistError),
}

/// One address per family that the node has a CIDR of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Addresses {
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.ipv4.map(IpAddr::from), self.ipv6.map(IpAddr::from)].into_iter().flatten()
    }
}

/// Allocator of pod addresses. A released address is the last to be given again.
#[derive(Debug)]
pub(crate) struct Ipam {
    path: PathBuf,
    pools: Vec<Pool>,
}

impl Ipam {
    /// Takes up the persisted state; addresses outside the CIDRs are forgotten.
    pub(crate) fn open(path: &Path, cidrs: &[IpNet]) -> Result<Self, IpamError> {
        let mut saved: State = persist::load_json(path)?.unwrap_or_default();
        let mut pools: Vec<Pool> = Vec::new();
        for cidr in cidrs {
            let cidr = cidr.trunc();
            if let Some(other) = pools.iter().find(|pool| same_family(pool.cidr, cidr)) {
                return Err(IpamError::Family(other.cidr, cidr));
            }
            let mut pool = Pool::new(cidr)?;
            if let Some(known) = saved.pools.iter_mut().find(|pool| pool.cidr == cidr) {
                pool.next = known.next;
                pool.used = std::mem::take(&mut known.used);
            }
            pools.push(pool);
        }
        if pools.is_empty() {
            return Err(IpamError::NoCidr);
        }
        Ok(Self { path: path.to_owned(), pools })
    }

    /// An allocator of a machine without pods: it has no address to give.
    pub(crate) fn without_pods(path: &Path) -> Self {
        Self { path: path.to_owned(), pools: Vec::new() }
    }

    /// Addresses of the node itself in its CIDRs: the gateways of the pods.
    pub(crate) fn routers(&self) -> Addresses {
        self.pools.iter().fold(Addresses::default(), |found, pool| found.with(pool.address(ROUTER_OFFSET)))
    }

    /// The CIDRs.
    pub(crate) fn cidrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools.iter().map(|pool| pool.cidr)
    }

    /// Gives `owner` an address of each family; the same ones when it has some already.
    ///
    /// # Errors
    /// A family has none left, or the state cannot be written. What `owner` had before it keeps.
    pub(crate) fn allocate(&mut self, owner: &str) -> Result<Addresses, IpamError> {
        if self.pools.is_empty() {
            return Err(IpamError::NoCidr);
        }
        let had: Vec<bool> = self.pools.iter().map(|pool| pool.has(owner)).collect();
        let mut addresses = Addresses::default();
        for index in 0..self.pools.len() {
            match self.pools[index].allocate(owner) {
                Ok(address) => addresses = addresses.with(address),
                Err(error) => {
                    // Nothing was written yet, so there is nothing to take back on disk.
                    for (pool, _) in self.pools.iter_mut().zip(had).filter(|(_, had)| !had) {
                        pool.release(owner);
                    }
                    return Err(error);
                }
            }
        }
        self.save()?;
        Ok(addresses)
    }

    /// Frees what `owner` has.
    pub(crate) fn release(&mut self, owner: &str) -> Result<(), IpamError> {
        for pool in &mut self.pools {
            pool.release(owner);
        }
        Ok(self.save()?)
    }

    /// Frees what nobody in `owners` has: allocations whose endpoint never came to be.
    pub(crate) fn retain(&mut self, owners: impl Fn(&str) -> bool) -> Result<(), IpamError> {
        for pool in &mut self.pools {
            pool.used.retain(|_, name| owners(name));
        }
        Ok(self.save()?)
    }

    /// For each family: its name, addresses in use, and addresses that can be given at all.
    pub(crate) fn usage(&self) -> impl Iterator<Item = (&'static str, usize, u64)> + '_ {
        self.pools.iter().map(|pool| {
            let family = if pool.cidr.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            (family, pool.used.len(), pool.last - FIRST_OFFSET + 1)
        })
    }

    fn save(&self) -> Result<(), PersistError> {
        persist::save_json(&self.path, &State { pools: self.pools.clone() })
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    pools: Vec<Pool>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Pool {
    cidr: IpNet,
    /// Offset of the address to try first.
    next: u64,
    /// Largest offset that may be given.
    last: u64,
    /// Owner by offset.
    used: BTreeMap<u64, String>,
}

impl Pool {
    fn new(cidr: IpNet) -> Result<Self, IpamError> {
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        if host_bits < 2 {
            return Err(IpamError::TooSmall(cidr));
        }
        // More than 2^24 pods on a node is no case; IPv4 keeps its broadcast address.
        let size = 1_u64 << host_bits.min(24);
        let last = if cidr.addr().is_ipv4() && host_bits <= 24 { size - 2 } else { size - 1 };
        Ok(Self { cidr, next: FIRST_OFFSET, last, used: BTreeMap::new() })
    }

    fn allocate(&mut self, owner: &str) -> Result<IpAddr, IpamError> {
        if let Some((offset, _)) = self.used.iter().find(|(_, name)| *name == owner) {
            return Ok(self.address(*offset));
        }
        let start = if (FIRST_OFFSET..=self.last).contains(&self.next) { self.next } else { FIRST_OFFSET };
        let offset = (start..=self.last)
            .chain(FIRST_OFFSET..start)
            .find(|offset| !self.used.contains_key(offset))
            .ok_or(IpamError::Exhausted { cidr: self.cidr, used: self.used.len() })?;
        self.next = offset + 1;
        self.used.insert(offset, owner.to_owned());
        Ok(self.address(offset))
    }

    fn has(&self, owner: &str) -> bool {
        self.used.values().any(|name| name == owner)
    }

    fn release(&mut self, owner: &str) {
        self.used.retain(|_, name| name != owner);
    }

    fn address(&self, offset: u64) -> IpAddr {
        match self.cidr.network() {
            // The offset is below the size of the network, which fits.
            IpAddr::V4(network) => {
                Ipv4Addr::from_bits(network.to_bits() | (offset & 0xffff_ffff) as u32).into()
            }
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | u128::from(offset)).into(),
        }
    }
}

impl Addresses {
    fn with(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4 = Some(address),
            IpAddr::V6(address) => self.ipv6 = Some(address),
        }
        self
    }
}

fn same_family(a: IpNet, b: IpNet) -> bool {
    a.addr().is_ipv4() == b.addr().is_ipv4()
}

const ROUTER_OFFSET: u64 = 1;
const FIRST_OFFSET: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn open(dir: &tempfile::TempDir, texts: &[&str]) -> Ipam {
        Ipam::open(&dir.path().join("ipam.json"), &cidrs(texts)).expect("opens")
    }

    fn used(ipam: &Ipam) -> usize {
        ipam.usage().map(|(_, used, _)| used).sum()
    }

    fn v4(addresses: Addresses) -> String {
        addresses.ipv4.expect("has IPv4").to_string()
    }

    #[test]
    fn both_families_skip_network_and_router() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut ipam = open(&dir, &["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let routers = ipam.routers();
        assert_eq!(v4(routers), "10.244.1.1");
        assert_eq!(routers.ipv6.expect("has IPv6").to_string(), "fd00:10:244:1::1");
        let first = ipam.allocate("a").expect("allocates");
        assert_eq!(
            (v4(first), first.ipv6.expect("has IPv6").to_string()),
            ("10.244.1.2".into(), "fd00:10:244:1::2".into())
        );
    }

    #[test]
    fn allocation_is_idempotent_and_survives_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut ipam = open(&dir, &["10.0.0.0/24"]);
        let a = ipam.allocate("a").expect("allocates");
        assert_eq!(ipam.allocate("a").expect("same"), a);
        drop(ipam);
        let mut again = open(&dir, &["10.0.0.0/24"]);
        assert_eq!(again.allocate("a").expect("same after restart"), a);
        assert_eq!(v4(again.allocate("b").expect("next")), "10.0.0.3");
    }

    #[test]
    fn a_released_address_is_not_given_at_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut ipam = open(&dir, &["10.0.0.0/29"]);
        let a = ipam.allocate("a").expect("allocates");
        ipam.release("a").expect("releases");
        let later: Vec<String> =
            ["b", "c", "d", "e"].iter().map(|owner| v4(ipam.allocate(owner).expect("allocates"))).collect();
        assert_eq!(later, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(ipam.allocate("f").expect("wraps around"), a);
        let error = ipam.allocate("g").expect_err("full; broadcast is not given");
        assert!(matches!(error, IpamError::Exhausted { used: 5, .. }), "{error}");
    }

    #[test]
    fn a_failed_family_gives_the_other_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut ipam = open(&dir, &["10.0.0.0/24", "fd00::/126"]);
        ipam.allocate("a").expect("allocates");
        ipam.allocate("b").expect("allocates");
        assert!(ipam.allocate("c").is_err(), "IPv6 has two addresses");
        assert_eq!(used(&ipam), 4);
    }

    #[test]
    fn a_failed_family_leaves_what_the_owner_had() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let a = open(&dir, &["10.0.0.0/24"]).allocate("a").expect("allocates");
        let both = ["10.0.0.0/24", "fd00::/126"];
        let mut ipam = open(&dir, &both);
        ipam.allocate("b").expect("allocates");
        ipam.allocate("c").expect("allocates");
        assert!(ipam.allocate("a").is_err(), "IPv6 has two addresses");
        assert_eq!(used(&ipam), 5);
        ipam.release("b").expect("releases");
        let mut again = open(&dir, &both);
        assert_eq!(again.allocate("a").expect("IPv6 has room").ipv4, a.ipv4, "the same one after a restart");
    }

    #[test]
    fn addresses_of_unknown_owners_are_freed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut ipam = open(&dir, &["10.0.0.0/24"]);
        ipam.allocate("kept").expect("allocates");
        ipam.allocate("lost").expect("allocates");
        ipam.retain(|owner| owner == "kept").expect("saves");
        assert_eq!(used(&ipam), 1);
    }

    #[test]
    fn bad_cidrs_are_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("ipam.json");
        for (list, want) in [
            (vec!["10.0.0.0/31"], "too small"),
            (vec![], "no pod CIDR"),
            (vec!["10.0.0.0/24", "10.0.1.0/24"], "two pod CIDRs"),
        ] {
            let error = Ipam::open(&path, &cidrs(&list)).expect_err("refused");
            assert!(error.to_string().contains(want), "{error}");
        }
    }
}
