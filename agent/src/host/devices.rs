//! Which devices of the machine the programs are attached to.

use std::fmt;
use std::str::FromStr;

use rtnetlink::packet_route::link::LinkLayerType;
use specola_datapath::probe;

use crate::net::{Device, Hooks, Net, NetError};

/// The devices that were asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Devices {
    /// Every device that reaches the network.
    Auto,
    /// These.
    Named(Vec<String>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err("give device names separated by commas, or auto".to_owned());
        }
        match names.as_slice() {
            [auto] if auto == "auto" => Ok(Self::Auto),
            names if names.iter().any(|name| name == "auto") => {
                Err("give auto, or names of devices, not both".to_owned())
            }
            _ => Ok(Self::Named(names)),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(names) => f.write_str(&names.join(",")),
        }
    }
}

/// Why devices cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("device {name} does not exist; there are {existing}")]
    Absent { name: String, existing: String },
    #[error(
        "device {name} carries no Ethernet frames ({kind}); name the Ethernet device below it, or leave it out"
    )]
    NotEthernet { name: String, kind: String },
    #[error("no device reaches the network; there are {existing}; name devices with --devices NAME,NAME")]
    None { existing: String },
    #[error(
        "programs of Specola are attached to {name} already; use `specola observe` to ask the agent, or stop it and run \
         `specola cleanup --yes`"
    )]
    Taken { name: String },
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Devices {
    /// The devices there are of those that were asked for.
    pub(crate) async fn find(&self, net: &Net) -> Result<Vec<Device>, DeviceError> {
        self.choose(&net.devices().await?)
    }

    /// Chooses among all devices.
    fn choose(&self, all: &[Device]) -> Result<Vec<Device>, DeviceError> {
        match self.choose_present(all) {
            (found, None) => Ok(found),
            (_, Some(error)) => Err(error),
        }
    }

    /// [`Self::choose`] without those that cannot be used; the first of them gives the error.
    pub(crate) fn choose_present(&self, all: &[Device]) -> (Vec<Device>, Option<DeviceError>) {
        let existing = || all.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
        let Self::Named(names) = self else {
            let found = default_devices(all);
            let error = found.is_empty().then(|| DeviceError::None { existing: existing() });
            return (found, error);
        };
        let mut error = None;
        let mut found = Vec::new();
        for name in names {
            let reason = match all.iter().find(|device| device.name == *name) {
                None => DeviceError::Absent { name: name.clone(), existing: existing() },
                Some(device) if !is_ethernet(device) => {
                    let kind = format!("{:?}", device.layer).to_ascii_lowercase();
                    DeviceError::NotEthernet { name: name.clone(), kind }
                }
                Some(device) => {
                    found.push(device.clone());
                    continue;
                }
            };
            error = error.or(Some(reason));
        }
        (found, error)
    }
}

/// Devices of a machine that reach the network: Ethernet, up, with an address that others can use, and not part of
/// another device. Bridges and links of containers are left out.
pub(crate) fn default_devices(all: &[Device]) -> Vec<Device> {
    let reaches = |device: &&Device| {
        device.is_up
            && !device.is_loopback
            && !device.has_master
            && device.has_address
            && is_ethernet(device)
            && !CONTAINERS.iter().any(|prefix| device.name.starts_with(prefix))
    };
    all.iter().filter(reaches).cloned().collect()
}

/// Refuses devices that have programs of ours.
pub(crate) fn check_free(devices: &[Device], hooks: &Hooks) -> Result<(), DeviceError> {
    for device in devices {
        let tcx = probe::tcx_programs(&device.name).ok().flatten().unwrap_or_default();
        let is_taken = tcx.iter().any(|program| probe::is_own_name(&program.name))
            || hooks.filters.iter().any(|filter| filter.ifindex == device.index && filter.is_own());
        if is_taken {
            return Err(DeviceError::Taken { name: device.name.clone() });
        }
    }
    Ok(())
}

fn is_ethernet(device: &Device) -> bool {
    device.layer == LinkLayerType::Ether
}

/// Names of devices that container runtimes and network plugins make.
const CONTAINERS: [&str; 12] = [
    "docker", "br-", "veth", "virbr", "cni", "podman", "lxc", "lxdbr", "cilium_", "specola_", "cali",
    "flannel",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str) -> Device {
        Device {
            index,
            name: name.to_owned(),
            layer: LinkLayerType::Ether,
            is_up: true,
            is_loopback: false,
            has_master: false,
            has_address: true,
        }
    }

    #[test]
    fn devices_are_named_or_found() {
        assert_eq!("auto".parse(), Ok(Devices::Auto));
        assert_eq!("eth0, eth1".parse(), Ok(Devices::Named(vec!["eth0".to_owned(), "eth1".to_owned()])));
        for bad in ["", "eth0,", "auto,eth0"] {
            assert!(bad.parse::<Devices>().is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_takes_what_reaches_the_network() {
        let all = [
            Device { is_loopback: true, layer: LinkLayerType::Loopback, ..device(1, "lo") },
            device(2, "eth0"),
            Device { is_up: false, ..device(3, "eth1") },
            Device { has_master: true, ..device(4, "eth2") },
            Device { has_address: false, ..device(5, "eth3") },
            Device { layer: LinkLayerType::None, ..device(6, "wg0") },
            device(7, "docker0"),
            device(8, "bond0"),
        ];
        let names: Vec<String> = default_devices(&all).into_iter().map(|device| device.name).collect();
        assert_eq!(names, ["eth0", "bond0"]);
        let error = Devices::Auto.choose(&all[..1]).expect_err("loopback only").to_string();
        assert!(error.contains("there are lo;"), "{error}");
    }

    #[test]
    fn a_wrong_name_is_said_with_the_right_ones() {
        let named = |name: &str| Devices::Named(vec![name.to_owned()]);
        let all = [device(2, "eth0"), Device { layer: LinkLayerType::None, ..device(6, "wg0") }];
        assert_eq!(named("eth0").choose(&all).expect("exists").len(), 1);
        let absent = named("eth9").choose(&all).expect_err("absent").to_string();
        assert!(absent.contains("there are eth0, wg0"), "{absent}");
        let tunnel = named("wg0").choose(&all).expect_err("a tunnel").to_string();
        assert!(tunnel.contains("no Ethernet frames"), "{tunnel}");
    }
}
