//! Changing over from the programs of an earlier build whose maps have another layout.
//!
//! Those programs run on, over their own maps, with the policies that they have, until this build's maps are filled:
//! addresses, endpoints, policies, connections. Only then do the links get the new programs, and last the old maps go.
//! So no packet meets an endpoint without its policy.

use super::Node;
use crate::endpoint::State;

impl Node {
    /// Hooks the programs to what is ready for them.
    ///
    /// # Errors
    /// Something failed, or an endpoint's policy is not realized yet: its link keeps the old programs meanwhile.
    pub(super) fn take_over(&mut self) -> anyhow::Result<()> {
        if !self.takes_over {
            return Ok(());
        }
        self.kernel.migrate_connections()?;
        self.kernel.attach_node(&self.settings.devices)?;
        let mut waiting = Vec::new();
        let attached = self.endpoints.values_mut().filter(|endpoint| endpoint.is_attached());
        for endpoint in attached.filter(|endpoint| endpoint.old_programs && endpoint.state != State::Invalid)
        {
            if endpoint.state == State::Ready {
                self.kernel.attach_endpoint(endpoint.ifindex)?;
                endpoint.old_programs = false;
            } else {
                waiting.push(endpoint.pod());
            }
        }
        if !waiting.is_empty() {
            anyhow::bail!(
                "{} endpoints run the programs of an earlier build, with their last policy, until theirs is realized: {}",
                waiting.len(),
                waiting.join(", ")
            );
        }
        let removed = self.kernel.remove_old_maps()?;
        tracing::info!(maps = removed.join(", "), "maps of an earlier build removed");
        self.takes_over = false;
        Ok(())
    }
}
