//! The panic switch: the host's policy stops and starts without an agent, and stays off across restarts.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use specola_datapath::abi::endpoint::{EndpointRecord, HOST_SLOT, policy_flags};
use specola_datapath::{PinnedError, PinnedMaps};

use crate::persist;

/// The host's policy on one machine, as its pins and its state directory tell.
#[derive(Clone, Debug)]
pub struct HostPolicy {
    pin_dir: PathBuf,
    state_dir: PathBuf,
}

/// What is true of the host's policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct HostPolicyState {
    /// Programs are loaded, and the machine has an endpoint.
    pub present: bool,
    /// A policy governs the machine.
    pub governed: bool,
    /// Would-be denies pass and are marked.
    pub audit: bool,
    /// The kernel was told not to ask the policy.
    pub suspended: bool,
    /// The next agent will be told the same.
    pub stays_suspended: bool,
    /// Revision of the policies in force.
    pub revision: u32,
}

impl HostPolicyState {
    /// Whether packets are dropped.
    pub const fn is_enforced(&self) -> bool {
        self.present && self.governed && !self.audit && !self.suspended
    }
}

impl HostPolicy {
    /// Names the directories; nothing is opened yet.
    pub const fn new(pin_dir: PathBuf, state_dir: PathBuf) -> Self {
        Self { pin_dir, state_dir }
    }

    /// Stops enforcement: first in the kernel, then for agents to come.
    ///
    /// # Errors
    /// A map or the state directory cannot be written. What was done until then stays.
    pub fn suspend(&self) -> anyhow::Result<HostPolicyState> {
        if let Some(maps) = self.maps()? {
            maps.suspend_host(true)?;
        }
        persist::make_dir(&self.state_dir)?;
        std::fs::write(self.marker(), MARKER_TEXT).with_context(|| {
            format!(
                "writing {}: enforcement is off, but the next agent will not know",
                self.marker().display()
            )
        })?;
        self.state()
    }

    /// Lets policy be enforced again.
    ///
    /// # Errors
    /// A map or the state directory cannot be written.
    pub fn resume(&self) -> anyhow::Result<HostPolicyState> {
        match std::fs::remove_file(self.marker()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", self.marker().display()));
            }
            _ => {}
        }
        if let Some(maps) = self.maps()? {
            maps.suspend_host(false)?;
        }
        self.state()
    }

    /// What is true now.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn state(&self) -> anyhow::Result<HostPolicyState> {
        let stays_suspended = self.is_marked();
        let none = HostPolicyState {
            present: false,
            governed: false,
            audit: false,
            suspended: false,
            stays_suspended,
            revision: 0,
        };
        let Some(maps) = self.maps()? else { return Ok(none) };
        let suspended = maps.is_host_suspended()?;
        let host = maps.endpoints()?.into_iter().find(|(slot, _)| *slot == HOST_SLOT);
        let Some((_, record)) = host else { return Ok(HostPolicyState { suspended, ..none }) };
        let policy = record.policy[EndpointRecord::active(record.word) as usize & 1];
        const GOVERNED: u32 = policy_flags::READY | policy_flags::ENFORCED;
        Ok(HostPolicyState {
            present: true,
            governed: policy.flags & GOVERNED == GOVERNED,
            audit: policy.flags & policy_flags::AUDIT != 0,
            suspended,
            stays_suspended,
            revision: policy.revision,
        })
    }

    /// Tells the kernel what was asked for while other maps were in use.
    ///
    /// # Errors
    /// A map cannot be written.
    pub(crate) fn keep_suspended(&self) -> anyhow::Result<()> {
        if self.is_marked()
            && let Some(maps) = self.maps()?
        {
            maps.suspend_host(true)?;
            let file = self.marker();
            tracing::warn!(
                file = %file.display(),
                "host policies are not enforced; `specola host-policy panic-on` switches them on again"
            );
        }
        Ok(())
    }

    /// Whether agents are to start with enforcement off.
    fn is_marked(&self) -> bool {
        self.marker().exists()
    }

    fn marker(&self) -> PathBuf {
        self.state_dir.join(MARKER)
    }

    /// The pinned maps; none when nothing is pinned.
    fn maps(&self) -> anyhow::Result<Option<PinnedMaps>> {
        match PinnedMaps::open(Path::new(&self.pin_dir)) {
            Ok(maps) => Ok(Some(maps)),
            Err(PinnedError::Nothing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// File of the state directory that says so.
const MARKER: &str = "host-policy-off";
const MARKER_TEXT: &str =
    "enforcement of host policies is off; `specola host-policy panic-on` switches it on again\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_works_where_nothing_is_loaded() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let policy = HostPolicy::new(dir.path().join("pins"), dir.path().join("state"));
        let state = policy.state().expect("nothing to read");
        assert!(!state.present && !state.stays_suspended && !state.is_enforced());
        assert!(policy.suspend().expect("marks").stays_suspended);
        assert!(policy.is_marked());
        assert!(!policy.resume().expect("takes the mark away").stays_suspended);
        assert!(!policy.resume().expect("nothing to do").stays_suspended);
    }
}
