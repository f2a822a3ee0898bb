//! The programs and where they are hooked.

use std::time::UNIX_EPOCH;

use serde::Serialize;
use specola_datapath::Hook;

use super::{Dump, NodeView};
use crate::net::{Filter, Hooks, hooks_in};

/// A program in the kernel that uses the node's maps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProgramRow {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Hash of its instructions: equal for equal programs.
    pub tag: String,
    /// When it was loaded, seconds since 1970.
    pub loaded_at: Option<u64>,
    /// Bytes of its instructions.
    pub translated_bytes: u32,
    /// Bytes of its machine code; 0 = interpreted.
    pub jitted_bytes: u32,
    /// Instructions that the verifier followed.
    pub verified_instructions: Option<u32>,
    /// Bytes of memory that it takes.
    pub memory_bytes: u32,
    /// Where it runs; empty: loaded, but no packet meets it.
    pub hooks: Vec<Hooked>,
}

/// A place where a program runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hooked {
    /// The interface.
    pub ifindex: u32,
    /// Its name; absent when the interface is gone.
    pub interface: Option<String>,
    /// `ingress` or `egress`, as the kernel sees it.
    pub hook: &'static str,
    /// `tcx` or `clsact`.
    pub by: &'static str,
}

impl NodeView {
    /// The programs, by id. `maps` is empty.
    ///
    /// # Errors
    /// The kernel refused to list programs or filters, or the network namespace cannot be entered.
    pub fn programs(&self) -> anyhow::Result<Dump<ProgramRow>> {
        let found = hooks_in(self.place.netns.as_deref())?;
        let links = self.pinned.links()?;
        let mut entries = Vec::new();
        for program in self.pinned.programs()? {
            let mut hooks: Vec<Hooked> = links
                .iter()
                .filter(|link| link.program_id == program.id)
                .map(|link| Hooked {
                    ifindex: link.ifindex,
                    interface: found.name_of(link.ifindex),
                    hook: link.hook().map_or("unknown", hook_name),
                    by: "tcx",
                })
                .collect();
            let filters = found.filters.iter().filter(|filter| filter.program_id == Some(program.id));
            hooks.extend(filters.map(|filter| by_filter(&found, filter)));
            entries.push(ProgramRow {
                id: program.id,
                name: program.name,
                tag: format!("{:016x}", program.tag),
                loaded_at: program
                    .loaded_at
                    .and_then(|at| Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())),
                translated_bytes: program.translated_bytes,
                jitted_bytes: program.jitted_bytes,
                verified_instructions: program.verified_instructions,
                memory_bytes: program.memory_bytes,
                hooks,
            });
        }
        Ok(Dump { entries, maps: Vec::new() })
    }
}

fn by_filter(found: &Hooks, filter: &Filter) -> Hooked {
    Hooked {
        ifindex: filter.ifindex,
        interface: found.name_of(filter.ifindex),
        hook: hook_name(filter.hook),
        by: "clsact",
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}
