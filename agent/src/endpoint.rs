//! Local endpoints: their life, and the file by which each survives a restart of the agent.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ipam::Addresses;
use crate::net::Mac;
use crate::persist::{self, PersistError};

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum State {
    /// Its link is being made.
    Creating,
    /// Its pod, and so its labels, are not known yet, or the store gave no number for them.
    WaitingForIdentity,
    /// It has an identity but no policy; the kernel drops its packets.
    NotReady,
    /// A change concerns its policy.
    WaitingToRegenerate,
    /// Its policy is being computed and written.
    Regenerating,
    /// The kernel enforces its policy.
    Ready,
    /// It is being removed.
    Disconnecting,
    /// Its link and its addresses are gone.
    Disconnected,
    /// It was found after a restart; the kernel enforces what it did before.
    Restoring,
    /// It cannot be used, for a reason that its conditions name.
    Invalid,
}

impl State {
    /// All states, for metrics.
    pub(crate) const ALL: [Self; 10] = [
        Self::Creating,
        Self::WaitingForIdentity,
        Self::NotReady,
        Self::WaitingToRegenerate,
        Self::Regenerating,
        Self::Ready,
        Self::Disconnecting,
        Self::Disconnected,
        Self::Restoring,
        Self::Invalid,
    ];

    /// Name as upstream writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::NotReady => "not-ready",
            Self::WaitingToRegenerate => "waiting-to-regenerate",
            Self::Regenerating => "regenerating",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Restoring => "restoring",
            Self::Invalid => "invalid",
        }
    }

    /// Whether an endpoint may go from here to `next`.
    pub(crate) const fn may_become(self, next: Self) -> bool {
        use State::{
            Creating, Disconnected, Disconnecting, Invalid, NotReady, Ready, Regenerating, Restoring,
            WaitingForIdentity, WaitingToRegenerate,
        };
        match self {
            Creating => matches!(next, WaitingForIdentity | NotReady | Disconnecting | Invalid),
            WaitingForIdentity | Restoring => {
                matches!(next, WaitingForIdentity | NotReady | WaitingToRegenerate | Disconnecting | Invalid)
            }
            NotReady | Ready => {
                matches!(next, NotReady | WaitingForIdentity | WaitingToRegenerate | Disconnecting | Invalid)
            }
            WaitingToRegenerate => {
                matches!(next, Regenerating | NotReady | WaitingForIdentity | Disconnecting | Invalid)
            }
            Regenerating => matches!(next, Ready | NotReady | WaitingToRegenerate | Disconnecting | Invalid),
            Invalid => matches!(next, Disconnecting | NotReady | WaitingForIdentity),
            Disconnecting => matches!(next, Disconnected),
            Disconnected => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name of an endpoint for those who ask for it: a container's interface.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct EndpointKey {
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

impl EndpointKey {
    /// Name of the host side of its link, and the MAC addresses of pod and host side; always the same ones.
    pub(crate) fn link_names(&self) -> (String, Mac, Mac) {
        let mut hash = Sha256::new();
        hash.update(self.container_id.as_bytes());
        hash.update([0]);
        hash.update(self.ifname.as_bytes());
        let digest = hash.finalize();
        let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        (format!("lxc{hex}"), mac_of(&digest[8..14]), mac_of(&digest[16..22]))
    }
}

/// What of an endpoint is on disk.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct EndpointFile {
    pub(crate) id: u16,
    pub(crate) slot: u16,
    pub(crate) key: EndpointKey,
    pub(crate) netns: PathBuf,
    pub(crate) pod_namespace: String,
    pub(crate) pod_name: String,
    pub(crate) addresses: Addresses,
    pub(crate) mac: Mac,
    pub(crate) host_mac: Mac,
    pub(crate) host_ifname: String,
    /// 0 = none yet.
    pub(crate) identity: u32,
    /// Whether the link was made; without it the endpoint is forgotten at a restart.
    pub(crate) attached: bool,
}

impl EndpointFile {
    /// Writes the file.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), PersistError> {
        persist::save_json(&file(dir, self.id), self)
    }

    /// Removes the file of an endpoint.
    pub(crate) fn remove(dir: &Path, id: u16) -> Result<(), PersistError> {
        persist::remove(&file(dir, id)).map(|_| ())
    }

    /// Reads every file, for others than the agent: nothing is changed, and a directory need not exist.
    pub(crate) fn peek_all(dir: &Path) -> Result<Vec<Self>, PersistError> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(PersistError::io("list", dir)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(PersistError::io("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.extend(persist::peek_json::<Self>(&path)?);
            }
        }
        Ok(found)
    }

    /// Reads every file; those that do not decode are set aside.
    pub(crate) fn load_all(dir: &Path) -> Result<Vec<Self>, PersistError> {
        persist::make_dir(dir)?;
        let entries = std::fs::read_dir(dir).map_err(PersistError::io("list", dir))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(PersistError::io("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.extend(persist::load_json::<Self>(&path)?);
            }
        }
        found.sort_by_key(|file| file.id);
        Ok(found)
    }
}

fn file(dir: &Path, id: u16) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// A locally administered unicast address.
fn mac_of(bytes: &[u8]) -> Mac {
    let mut mac = Mac::default();
    mac.copy_from_slice(bytes);
    mac[0] = (mac[0] & 0xfc) | 0x02;
    mac
}

/// Gives the numbers from `first` to `last` in turn, so that one that was given back is the last to come again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    first: u16,
    last: u16,
    next: u16,
}

impl Turn {
    pub(crate) const fn new(first: u16, last: u16) -> Self {
        Self { first, last, next: first }
    }

    /// The next number that is not `used`.
    pub(crate) fn take(&mut self, used: impl Fn(u16) -> bool) -> Option<u16> {
        let found = (self.next..=self.last).chain(self.first..self.next).find(|number| !used(*number))?;
        self.next = if found == self.last { self.first } else { found + 1 };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: u16) -> EndpointFile {
        let key = EndpointKey { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        let (host_ifname, mac, host_mac) = key.link_names();
        EndpointFile {
            id,
            slot: 3,
            key,
            netns: "/run/netns/x".into(),
            pod_namespace: "shop".to_owned(),
            pod_name: "web".to_owned(),
            addresses: Addresses::default(),
            mac,
            host_mac,
            host_ifname,
            identity: 300,
            attached: true,
        }
    }

    #[test]
    fn files_round_trip_and_corrupt_ones_are_set_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        endpoint(7).save(dir.path()).expect("saves");
        std::fs::write(dir.path().join("8.json"), "{").expect("writes");
        assert_eq!(EndpointFile::load_all(dir.path()).expect("loads"), [endpoint(7)]);
        EndpointFile::remove(dir.path(), 7).expect("removes");
        assert!(EndpointFile::load_all(dir.path()).expect("loads").is_empty());
    }

    #[test]
    fn link_names_fit_and_are_stable() {
        let (name, mac, host_mac) = endpoint(1).key.link_names();
        assert!(name.len() <= 15, "{name}");
        assert_eq!(endpoint(1).key.link_names(), (name, mac, host_mac));
        assert_ne!(mac, host_mac);
        assert_eq!((mac[0] & 3, host_mac[0] & 3), (2, 2), "locally administered, unicast");
    }

    #[test]
    fn numbers_come_in_turn() {
        let mut turn = Turn::new(1, 3);
        let free = |_| false;
        assert_eq!([turn.take(free), turn.take(free)], [Some(1), Some(2)]);
        assert_eq!(turn.take(free), Some(3), "1 may be free again but is not taken at once");
        assert_eq!(turn.take(|number| number == 1), Some(2));
        assert_eq!(turn.take(|_| true), None);
    }

    #[test]
    fn removal_is_final_and_open_from_every_living_state() {
        for state in State::ALL {
            let living = !matches!(state, State::Disconnecting | State::Disconnected);
            assert_eq!(state.may_become(State::Disconnecting), living, "{state}");
            assert!(!State::Disconnected.may_become(state), "{state}");
        }
    }

    #[test]
    fn nothing_is_ready_without_regeneration() {
        for state in State::ALL {
            assert_eq!(state.may_become(State::Ready), state == State::Regenerating, "{state}");
        }
    }
}
