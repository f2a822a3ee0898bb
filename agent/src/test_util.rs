//! What tests of the whole policy path need of the agent: its translation of policies for the kernel.

use std::path::Path;

use specola_datapath::PolicyUpdate;
use specola_policy::{EndpointPolicy, MapState, OriginSet};

use crate::cookie::CookieTable;
use crate::node::policy_update;

/// Translates the engine's policies into kernel entries, with cookies that it gives away.
#[derive(Debug)]
pub struct Translator {
    cookies: CookieTable,
}

impl Translator {
    /// Starts with the cookies of a file, which need not exist.
    ///
    /// # Errors
    /// The file cannot be read or made.
    pub fn open(cookies: &Path) -> anyhow::Result<Self> {
        Ok(Self { cookies: CookieTable::open(cookies)? })
    }

    /// What turns the policy in force into the new one.
    ///
    /// # Errors
    /// No cookie is left.
    pub fn update(
        &mut self,
        slot: u16,
        in_force: &MapState,
        new: &EndpointPolicy,
    ) -> anyhow::Result<PolicyUpdate> {
        Ok(policy_update(slot, in_force, new, &mut self.cookies)?)
    }

    /// The rules that a cookie stands for.
    pub fn origins(&self, cookie: u32) -> Option<&OriginSet> {
        self.cookies.iter().find_map(|(number, origins)| (number == cookie).then_some(origins))
    }

    /// The cookie of a set of rules, if it has one.
    pub fn cookie(&self, origins: &OriginSet) -> Option<u32> {
        self.cookies.number(origins)
    }
}
