//! Text form of prefixes in label keys.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

/// Address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Family of a prefix.
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// Key of a prefix: IPv6 has `-` for `:` and `0` where it would start or end with `-`.
pub(crate) fn cidr_key(prefix: IpNet) -> String {
    let prefix = prefix.trunc();
    let IpNet::V6(v6) = prefix else {
        return prefix.to_string();
    };
    let mut address = v6.network().to_string().replace(':', "-");
    if address.starts_with('-') {
        address.insert(0, '0');
    }
    if address.ends_with('-') {
        address.push('0');
    }
    format!("{address}/{}", v6.prefix_len())
}

/// Reads a prefix back from the key of a `cidr` label. None when it is not one.
pub fn parse_cidr_key(key: &str) -> Option<IpNet> {
    let (address, len) = key.split_once('/')?;
    if !address.contains('-') {
        return key.parse().ok();
    }
    let address: Ipv6Addr = address.replace('-', ":").parse().ok()?;
    Some(IpNet::V6(Ipv6Net::new(address, len.parse().ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip(v6 in any::<bool>(), bits in any::<u128>(), len in 0u8..=128) {
            let net: IpNet = if v6 {
                Ipv6Net::new(bits.into(), len).unwrap().trunc().into()
            } else {
                ipnet::Ipv4Net::new((bits as u32).into(), len % 33).unwrap().trunc().into()
            };
            prop_assert_eq!(parse_cidr_key(&cidr_key(net)), Some(net));
        }

        #[test]
        fn any_text_is_safe(text in ".{0,40}") {
            let _ = parse_cidr_key(&text);
        }
    }
}
