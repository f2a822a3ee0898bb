//! Runs the benchmarks and writes their tables into the pages of `docs/benchmarks/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A benchmark: its page in `docs/benchmarks/`, and the programs that print its tables, by package and name.
struct Bench {
    page: &'static str,
    programs: &'static [(&'static str, &'static str)],
}

const FLOW: &str = "specola-flow";
const FLOWS: &str = "specola-flow-server";
const TESTS: &str = "specola-tests";

const BENCHES: [Bench; 8] = [
    Bench {
        page: "flow-server",
        programs: &[(FLOWS, "flows"), (FLOW, "filters"), (FLOWS, "metrics"), (FLOWS, "export")],
    },
    Bench { page: "idle", programs: &[(TESTS, "idle")] },
    Bench { page: "memory", programs: &[(FLOWS, "memory")] },
    Bench { page: "packets", programs: &[("specola-datapath", "packets")] },
    Bench { page: "paths", programs: &[(TESTS, "paths")] },
    Bench { page: "policy", programs: &[("specola-policy", "engine"), (TESTS, "changes")] },
    Bench { page: "relay", programs: &[("specola-relay", "nodes")] },
    Bench { page: "ring", programs: &[("specola-ring", "ring")] },
];

const BEGIN: &str = "<!-- results: begin -->";
const END: &str = "<!-- results: end -->";

/// Runs the named benchmarks, or all of them.
///
/// # Errors
/// A name is not known, a benchmark fails, or a page lacks the marks between which results go.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")?;
    if let Some(unknown) = names.iter().find(|name| !BENCHES.iter().any(|bench| bench.page == **name)) {
        let known: Vec<_> = BENCHES.iter().map(|bench| bench.page).collect();
        bail!("no benchmark {unknown:?}; there are {}", known.join(", "));
    }
    build(root)?;
    let chosen =
        BENCHES.iter().filter(|bench| names.is_empty() || names.iter().any(|name| name == bench.page));
    let mut failed = Vec::new();
    for bench in chosen {
        eprintln!("benchmark {}", bench.page);
        if let Err(error) = run_one(root, bench) {
            eprintln!("benchmark {} failed: {error:#}", bench.page);
            failed.push(bench.page);
        }
    }
    ensure!(failed.is_empty(), "these benchmarks failed: {}", failed.join(", "));
    Ok(())
}

/// The benchmarks run the release binary.
fn build(root: &Path) -> Result<()> {
    let status = cargo(root).args(["build", "--release", "--locked", "--bin", "specola"]).status()?;
    ensure!(status.success(), "the release binary does not build");
    Ok(())
}

fn run_one(root: &Path, bench: &Bench) -> Result<()> {
    let mut tables = Vec::new();
    for (package, name) in bench.programs {
        tables.push(run_program(root, package, name).with_context(|| format!("program {name}"))?);
    }
    let table = tables.join("\n\n");
    println!("{table}");
    let page = page(root, bench.page);
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = replace(&text, &format!("{}\n\n{}", machine(), table.trim()))
        .with_context(|| format!("{} has no place for results: {BEGIN} and {END}", page.display()))?;
    std::fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// Runs one program; gives the table that it prints.
fn run_program(root: &Path, package: &str, name: &str) -> Result<String> {
    let mut command = cargo(root);
    command.args(["bench", "--quiet", "--locked", "-p", package, "--bench", name]);
    if package == FLOW {
        // Its filters need Hubble's messages.
        command.args(["--features", "proto"]);
    }
    let output =
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    let table = String::from_utf8(output.stdout).context("its output is no text")?;
    ensure!(table.contains('|'), "it printed no table");
    Ok(table.trim().to_owned())
}

fn page(root: &Path, name: &str) -> PathBuf {
    root.join("docs/benchmarks").join(format!("{name}.md"))
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// The text with new results between the marks.
fn replace(text: &str, results: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{results}\n{END}{tail}"))
}

/// What the figures were measured on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "Measured on {cores} cores of {model}, Linux {}, load average {load} at the start.",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_go_between_the_marks() {
        let text = format!("# Page\n{BEGIN}\nold\n{END}\ntail\n");
        assert_eq!(replace(&text, "| new |").unwrap(), format!("# Page\n{BEGIN}\n| new |\n{END}\ntail\n"));
        assert_eq!(replace("# Page\n", "| new |"), None);
        assert_eq!(replace(&format!("{END}{BEGIN}"), "| new |"), None);
    }

    #[test]
    fn every_benchmark_has_a_page_with_a_place_for_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for bench in BENCHES {
            let page = page(root, bench.page);
            let text =
                std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            assert!(replace(&text, "").is_some(), "{}", page.display());
        }
    }
}
