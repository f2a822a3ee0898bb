//! The programs that use a node's maps, and the links that hold them.

use std::collections::HashSet;
use std::time::SystemTime;

use aya::programs::{ProgramError, ProgramInfo, loaded_programs};

use super::{PinnedError, PinnedMaps, file_names, open_data, version_of};
use crate::attach::{Hook, attachment_of};
use crate::maps::MapsError;

/// A program in the kernel that uses this node's maps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoadedProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Hash of its instructions: equal for equal programs.
    pub tag: u64,
    /// When it was loaded, if the kernel says so.
    pub loaded_at: Option<SystemTime>,
    /// Bytes of its instructions.
    pub translated_bytes: u32,
    /// Bytes of its machine code; 0 = interpreted.
    pub jitted_bytes: u32,
    /// Instructions that the verifier followed, if the kernel says so (Linux 5.16).
    pub verified_instructions: Option<u32>,
    /// Bytes of memory that it takes.
    pub memory_bytes: u32,
}

/// A pinned link: it keeps a program at a hook of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedLink {
    /// Name of the program that it was made for.
    pub program: String,
    /// The interface.
    pub ifindex: u32,
    /// The program that it holds now.
    pub program_id: u32,
}

impl PinnedLink {
    /// The hook; `None` for a program of another version.
    pub fn hook(&self) -> Option<Hook> {
        Hook::of_program(&self.program)
    }
}

impl PinnedMaps {
    /// Programs in the kernel that use these maps, by id; also those that an earlier agent left attached.
    ///
    /// # Errors
    /// The kernel refused to list programs, or to look at a map.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>, PinnedError> {
        let ours = self.map_ids()?;
        let mut programs = Vec::new();
        for program in loaded_programs() {
            match program.and_then(|program| look_at(&program, &ours)) {
                Ok(found) => programs.extend(found),
                // It went while it was looked at.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("list the kernel's programs")(error)),
            }
        }
        programs.sort_by_key(|program| program.id);
        Ok(programs)
    }

    /// The pinned links, by interface and program.
    ///
    /// # Errors
    /// The directory or a link cannot be read.
    pub fn links(&self) -> Result<Vec<PinnedLink>, PinnedError> {
        let dir = self.dir.join("links");
        let mut found = Vec::new();
        for name in file_names(&dir)? {
            let Some(attachment) = attachment_of(&name) else { continue };
            let link = aya::programs::links::PinnedLink::from_pin(dir.join(&name))
                .map_err(failed("open a pinned link"))?;
            let link = aya::programs::links::FdLink::from(link);
            let program_id = link.info().map_err(failed("look at a pinned link"))?.program_id();
            found.push(PinnedLink { program: attachment.program, ifindex: attachment.ifindex, program_id });
        }
        found.sort_by(|a, b| (a.ifindex, &a.program).cmp(&(b.ifindex, &b.program)));
        Ok(found)
    }

    fn map_ids(&self) -> Result<HashSet<u32>, PinnedError> {
        let mut ids = HashSet::new();
        for name in file_names(&self.dir)?.iter().filter(|name| version_of(name).is_some()) {
            let data = open_data(PINNED, &self.dir.join(name))?;
            let info = data.info().map_err(MapsError::kernel(PINNED, "look at its pin"))?;
            ids.insert(info.id());
        }
        Ok(ids)
    }
}

/// What there is to say of a program if it uses one of the maps.
fn look_at(program: &ProgramInfo, maps: &HashSet<u32>) -> Result<Option<LoadedProgram>, ProgramError> {
    let uses = program.map_ids()?.unwrap_or_default();
    if !uses.iter().any(|map| maps.contains(map)) {
        return Ok(None);
    }
    Ok(Some(LoadedProgram {
        id: program.id(),
        name: String::from_utf8_lossy(program.name()).into_owned(),
        tag: program.tag(),
        loaded_at: program.loaded_at(),
        translated_bytes: program.size_translated().unwrap_or(0),
        jitted_bytes: program.size_jitted(),
        verified_instructions: program.verified_instruction_count(),
        memory_bytes: program.memory_locked()?,
    }))
}

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> PinnedError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| PinnedError::Kernel { what, cause: Box::new(cause) }
}

const PINNED: &str = "(pinned)";
