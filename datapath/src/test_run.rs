//! Running single packets through loaded programs.

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};

use crate::Datapath;

/// What a program did with a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TestRun {
    /// The program's return value (`TC_ACT_*`).
    pub action: u32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    /// The object has no traffic program of this name.
    #[error("no traffic program {name}")]
    NoProgram {
        /// As given.
        name: String,
    },
    /// The kernel refuses the run.
    #[error("{name} does not run: {source}")]
    Kernel {
        /// Name of the program.
        name: String,
        /// The cause.
        source: ProgramError,
    },
}

impl Datapath {
    /// Runs a program once on a frame (`BPF_PROG_TEST_RUN`), as if the loopback interface, ifindex 1, had it.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the run.
    pub fn test_run(&mut self, name: &str, frame: &[u8]) -> Result<TestRun, TestRunError> {
        let failed = |source| TestRunError::Kernel { name: name.to_owned(), source };
        let no_program = || TestRunError::NoProgram { name: name.to_owned() };
        let program = self.ebpf.program_mut(name).ok_or_else(no_program)?;
        let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = 1;
        let result = program.test_run(options).map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { action: result.return_value, frame: out })
    }
}

/// By how much a program may lengthen a packet.
const HEADROOM: usize = 64;
