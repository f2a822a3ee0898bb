//! Tries the tests on broken kernel programs: each seeded mistake must make some test fail.
//!
//! The programs are copied, changed, built and handed to the test executables by `SPECOLA_TEST_OBJECT`; the product
//! does not know that variable. The unchanged copy goes first and must pass everything.

mod list;
mod suites;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cargo_metadata::MetadataCommand;

use self::list::{MUTANTS, Mutant};
use self::suites::{Outcome, Suites};
use crate::nested;

/// Builds and tries the mutants whose names contain one of `wanted`, all when there is none.
pub(crate) fn run(wanted: &[String]) -> Result<()> {
    let chosen: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| wanted.is_empty() || wanted.iter().any(|text| mutant.name.contains(text.as_str())))
        .collect();
    ensure!(!chosen.is_empty(), "no mutant is called {wanted:?}; without a name all are tried");
    let workshop = Workshop::open()?;
    // Before anything slow: a mutation whose place is gone must be told at once.
    for mutant in &chosen {
        mutant.apply_to(&workshop.source(mutant.file)?)?;
    }
    let suites = Suites::build()?;
    match suites.try_object(&workshop.build(None)?)? {
        Outcome::Survived => println!("unchanged programs pass every test"),
        Outcome::KilledBy(test) => bail!("the unchanged programs fail {test}: mutants prove nothing"),
        Outcome::DoesNotLoad(why) => bail!("the kernel does not take the unchanged programs: {why}"),
    }
    println!("{:<34} killed by", "mutant");
    let mut wrong = Vec::new();
    for mutant in &chosen {
        let object = workshop.build(Some(mutant)).with_context(|| format!("mutant {:?}", mutant.name))?;
        let text = match suites.try_object(&object)? {
            Outcome::KilledBy(test) => test,
            Outcome::Survived => {
                wrong.push(format!("{}: no test fails although {}", mutant.name, mutant.mistake));
                "NOTHING".to_owned()
            }
            Outcome::DoesNotLoad(why) => {
                wrong.push(format!(
                    "{}: the kernel does not take it, so it proves nothing: {why}",
                    mutant.name
                ));
                "THE VERIFIER".to_owned()
            }
        };
        println!("{:<34} {text}", mutant.name);
    }
    ensure!(wrong.is_empty(), "{} of {} mutants:\n  {}", wrong.len(), chosen.len(), wrong.join("\n  "));
    println!("all {} mutants are killed", chosen.len());
    Ok(())
}

/// Where the programs are copied to, changed and built.
struct Workshop {
    /// The workspace.
    root: PathBuf,
    dir: PathBuf,
}

impl Workshop {
    fn open() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec().context("cargo metadata")?;
        let dir = metadata.target_directory.as_std_path().join("mutants");
        Ok(Self { root: metadata.workspace_root.into_std_path_buf(), dir })
    }

    /// Text of a file of the real source.
    fn source(&self, file: &str) -> Result<String> {
        let path = self.root.join("datapath").join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Builds the programs with a mistake, or as they are. The object's file is that of the mutant alone.
    fn build(&self, mutant: Option<&Mutant>) -> Result<PathBuf> {
        let copy = self.dir.join("source");
        if copy.exists() {
            fs::remove_dir_all(&copy).with_context(|| copy.display().to_string())?;
        }
        for part in PARTS {
            copy_tree(&self.root.join(part), &copy.join(part))?;
        }
        let manifest = fs::read_to_string(self.root.join("Cargo.toml"))?;
        fs::write(copy.join("Cargo.toml"), only_member(&manifest)?)?;
        if let Some(mutant) = mutant {
            let path = copy.join("datapath").join(mutant.file);
            fs::write(&path, mutant.apply_to(&self.source(mutant.file)?)?)?;
        }
        let endian = if cfg!(target_endian = "big") { "big" } else { "little" };
        let ebpf = copy.join("datapath/ebpf");
        let built =
            nested::build_object(&ebpf, &[], &self.dir.join("target"), (std::env::consts::ARCH, endian))
                .map_err(|error| anyhow!(error))?;
        let object = self.dir.join("specola.o");
        fs::copy(&built, &object).with_context(|| built.display().to_string())?;
        Ok(object)
    }
}

impl Mutant {
    /// The file's text with the mistake.
    fn apply_to(&self, text: &str) -> Result<String> {
        let found = text.matches(self.find).count();
        ensure!(
            found == 1,
            "mutant {:?}: {:?} is {found} times in datapath/{}, once is needed; bring it up to date",
            self.name,
            self.find,
            self.file
        );
        Ok(text.replace(self.find, self.replace))
    }
}

/// The workspace's manifest with one member: what `common` inherits from.
fn only_member(manifest: &str) -> Result<String> {
    let start = manifest.find(MEMBERS).context("the workspace lists its members")?;
    let end = start + manifest[start..].find(']').context("the list of members ends")?;
    Ok(format!("{}{MEMBERS}\"datapath/common\"{}", &manifest[..start], &manifest[end..]))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy_tree(&source, &target)?;
            }
        } else {
            fs::copy(&source, &target).with_context(|| source.display().to_string())?;
        }
    }
    Ok(())
}

/// What the nested build needs.
const PARTS: [&str; 2] = ["datapath/ebpf", "datapath/common"];
const MEMBERS: &str = "members = [";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_has_its_place_in_the_source() {
        let workshop = Workshop::open().expect("the workspace");
        for mutant in MUTANTS {
            let text = workshop.source(mutant.file).expect("the file");
            let changed = mutant.apply_to(&text).unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(changed, text, "{}", mutant.name);
        }
    }

    #[test]
    fn every_mutant_is_in_the_documentation() {
        let path = Workshop::open().expect("the workspace").root.join("docs/testing.md");
        let text = fs::read_to_string(path).expect("the page");
        let missing = MUTANTS.iter().map(|mutant| format!("| {} | {} |", mutant.name, mutant.mistake));
        let missing: Vec<String> = missing.filter(|row| !text.contains(row)).collect();
        assert!(missing.is_empty(), "docs/testing.md lacks:\n{}", missing.join("\n"));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), MUTANTS.len());
    }

    #[test]
    fn a_place_that_is_gone_or_twice_there_is_an_error() {
        let mutant = Mutant { name: "x", file: "f", find: "a", replace: "b", mistake: "m" };
        assert_eq!(mutant.apply_to("-a-").expect("once"), "-b-");
        assert!(mutant.apply_to("--").is_err());
        assert!(mutant.apply_to("aa").is_err());
    }

    #[test]
    fn the_copy_has_one_member() {
        let manifest = "[workspace]\nmembers = [\n  \"a\",\n  \"b\",\n]\nexclude = [\"c\"]\n";
        let expected = "[workspace]\nmembers = [\"datapath/common\"]\nexclude = [\"c\"]\n";
        assert_eq!(only_member(manifest).expect("members"), expected);
    }
}
