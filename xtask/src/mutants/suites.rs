//! The test executables that mutants are tried on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

/// What the tests say of an object.
pub(super) enum Outcome {
    /// All pass.
    Survived,
    /// Names of the suite and its first failing test.
    KilledBy(String),
    /// The kernel refuses it; why.
    DoesNotLoad(String),
}

/// Built test executables.
pub(super) struct Suites {
    programs: PathBuf,
    three_way: PathBuf,
}

impl Suites {
    /// Builds them as they are in the workspace.
    pub(super) fn build() -> Result<Self> {
        let command = Command::new(env!("CARGO"))
            .args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"])
            .args(["-p", "specola-datapath", "--test", PROGRAMS, "-p", "specola-tests", "--test", THREE_WAY])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo test --no-run")?;
        ensure!(command.status.success(), "the tests do not build");
        let mut found: Vec<(String, PathBuf)> = Vec::new();
        for message in Message::parse_stream(command.stdout.as_slice()) {
            if let Message::CompilerArtifact(artifact) = message.context("cargo's messages")?
                && let Some(executable) = artifact.executable
            {
                found.push((artifact.target.name, executable.into_std_path_buf()));
            }
        }
        let executable = |name: &str| {
            let path = found.iter().find(|(target, _)| target == name).map(|(_, path)| path.clone());
            path.with_context(|| format!("cargo did not say where the test {name} is"))
        };
        Ok(Self { programs: executable(PROGRAMS)?, three_way: executable(THREE_WAY)? })
    }

    /// Runs the suites on an object until a test fails.
    pub(super) fn try_object(&self, object: &Path) -> Result<Outcome> {
        let loads = run(&self.programs, object, &["--exact", LOADS])?;
        ensure!(tests_run(&loads) == 1, "there is no test {LOADS}; bring its name up to date");
        if !loads.status.success() {
            return Ok(Outcome::DoesNotLoad(last_lines(&loads)));
        }
        for (name, executable) in [(THREE_WAY, &self.three_way), (PROGRAMS, &self.programs)] {
            let output = run(executable, object, &[])?;
            ensure!(tests_run(&output) > 0, "{name} has no tests");
            if !output.status.success() {
                return Ok(Outcome::KilledBy(format!("{name} {}", failed_tests(&output))));
            }
        }
        Ok(Outcome::Survived)
    }
}

fn run(executable: &Path, object: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(executable)
        .args(arguments)
        .env(OBJECT_VARIABLE, object)
        // A mutant fails early or never; the shortest way to fail does not matter here.
        .env("PROPTEST_CASES", CASES)
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("RUST_BACKTRACE", "0")
        .output()
        .with_context(|| executable.display().to_string())
}

/// How many tests ran, from `running N tests`.
fn tests_run(output: &Output) -> usize {
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text
        .lines()
        .filter_map(|line| line.strip_prefix("running ")?.split(' ').next()?.parse::<usize>().ok());
    counts.sum::<usize>()
}

/// The first two names of failing tests, and how many more.
fn failed_tests(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    match failed.as_slice() {
        [] => format!("which ended with {}", output.status),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n    ")
}

const PROGRAMS: &str = "programs";
const THREE_WAY: &str = "three_way";
/// The test that fails when the kernel refuses a program.
const LOADS: &str = "basics::every_program_passes_the_verifier_with_room_to_grow";
/// See the tests' own helper crate.
const OBJECT_VARIABLE: &str = "SPECOLA_TEST_OBJECT";
/// Cases of each property test.
const CASES: &str = "200";

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn what_the_test_harness_prints_is_understood() {
        let stdout =
            "\nrunning 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... FAILED\n\nfailures:\n";
        let output =
            Output { status: ExitStatus::from_raw(101 << 8), stdout: stdout.into(), stderr: Vec::new() };
        assert_eq!((tests_run(&output), failed_tests(&output).as_str()), (3, "c and 1 more"));
        let output = Output { stdout: b"running 0 tests\n".to_vec(), ..output };
        assert_eq!(
            (tests_run(&output), failed_tests(&output).as_str()),
            (0, "which ended with exit status: 101")
        );
    }
}
