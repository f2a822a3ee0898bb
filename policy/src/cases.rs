//! Cases: clusters, policies, and what shall become of connections. Unit tests for policies.
//!
//! Every probe is decided twice, by the rules as written and by the policy map made of them. No I/O: the caller reads
//! the files.

mod decision;
mod file;
mod world;

use std::collections::BTreeSet;

use serde::Serialize;

use self::decision::Subjects;
pub use self::decision::{Answer, Question};
use self::file::{Case, Probe};
pub use self::file::{CaseFile, Expect, Side};
use self::world::World;
use crate::api::{DocumentError, ParsedFile, parse_policy_document};
use crate::document::Document;
use crate::eval::Verdict;
use crate::repository::Repository;
use crate::resolve::EndpointPolicy;

/// Text that is no case file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCaseFile {
    /// Not YAML, or not of the format.
    #[error("line {line}: {message}")]
    Format {
        /// Line, from 1; 0 when it is not known.
        line: u64,
        /// Cause.
        message: String,
    },
    /// A version of the format that is not known.
    #[error("version {0} is not known; write version: 1")]
    Version(u32),
    /// Two cases of one name.
    #[error("case {0} is there twice; give it another id")]
    Twice(String),
    /// No cluster of that name.
    #[error("case {case}: cluster {cluster} is not in the file")]
    NoCluster {
        /// The case.
        case: String,
        /// The name.
        cluster: String,
    },
}

/// What became of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not run.
    Skipped,
}

/// A case that was played.
#[derive(Clone, Debug)]
pub struct Played {
    /// `id`.
    pub id: String,
    /// `feature`, may be empty.
    pub feature: String,
    /// Passed when nothing failed.
    pub status: Status,
    /// What failed apart from probes, or why the case was skipped.
    pub messages: Vec<String>,
    /// Its probes.
    pub probes: Vec<PlayedProbe>,
    /// Policies of the endpoints that probes asked.
    pub policies: Vec<EndpointPolicy>,
    /// Whether the whole node is in audit mode.
    pub audit_mode: bool,
}

/// A probe that was played.
#[derive(Clone, Debug)]
pub struct PlayedProbe {
    /// As in the file.
    pub from: String,
    /// As in the file.
    pub to: String,
    /// Port and protocol in words.
    pub l4: String,
    /// What shall become of it.
    pub expect: Expect,
    /// What becomes of it; none when it cannot be told.
    pub got: Option<Expect>,
    /// Side that refuses it.
    pub side: Option<Side>,
    /// It passes only because of audit mode.
    pub audited: bool,
    /// It has a request, which a proxy judges.
    pub has_request: bool,
    /// Policies behind the decisions of both sides.
    pub policies: Vec<String>,
    /// What is wrong; none when all is as expected.
    pub failure: Option<String>,
    /// What each side was asked, and what it answered.
    pub answers: Vec<(Question, Answer)>,
}

impl CaseFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is not of the format.
    pub fn parse(text: &str) -> Result<Self, InvalidCaseFile> {
        let file: Self =
            serde_saphyr::from_str_with_options(text, crate::yaml::options()).map_err(|error| {
                InvalidCaseFile::Format {
                    line: error.location().map_or(0, |location| location.line()),
                    message: error
                        .without_snippet()
                        .to_string()
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                }
            })?;
        if file.version != 1 {
            return Err(InvalidCaseFile::Version(file.version));
        }
        let mut ids = BTreeSet::new();
        for case in &file.cases {
            if !ids.insert(&case.id) {
                return Err(InvalidCaseFile::Twice(case.id.clone()));
            }
            if !file.clusters.contains_key(&case.cluster) {
                let (case, cluster) = (case.id.clone(), case.cluster.clone());
                return Err(InvalidCaseFile::NoCluster { case, cluster });
            }
        }
        Ok(file)
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there is no case.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Plays every case. `read` gives the text of a file that `policy_files` names, or why it cannot be read.
    pub fn play(&self, read: impl Fn(&str) -> Result<String, String>) -> impl Iterator<Item = Played> {
        self.cases.iter().map(move |case| self.play_case(case, &read))
    }

    fn play_case(&self, case: &Case, read: &impl Fn(&str) -> Result<String, String>) -> Played {
        let mut played = Played {
            id: case.id.clone(),
            feature: case.feature.clone(),
            status: Status::Skipped,
            messages: Vec::new(),
            probes: Vec::new(),
            policies: Vec::new(),
            audit_mode: case.options.audit_mode,
        };
        if let Some(reason) = &case.skip {
            played.messages.push(reason.clone());
            return played;
        }
        if let Err(cause) = self.play_into(case, read, &mut played) {
            played.messages.push(cause);
        }
        let failed = !played.messages.is_empty() || played.probes.iter().any(|probe| probe.failure.is_some());
        played.status = if failed { Status::Failed } else { Status::Passed };
        played
    }

    fn play_into(
        &self,
        case: &Case,
        read: &impl Fn(&str) -> Result<String, String>,
        played: &mut Played,
    ) -> Result<(), String> {
        let cluster = self.clusters.get(&case.cluster).ok_or("no such cluster")?;
        let mut repository = Repository::new(case.settings(&cluster.cluster_name));
        world::add_objects(cluster, &mut repository)?;
        load(case, read, &mut repository, &mut played.messages);
        world::answer_groups(cluster, &mut repository);
        let world = World::new(cluster, case, &repository)?;
        let mut subjects = Subjects::default();
        for probe in &case.probes {
            played.probes.push(play_probe(&world, case, probe, &mut subjects));
        }
        played.policies = subjects.policies;
        Ok(())
    }
}

/// Puts the policies of a case into force; those that shall be refused must be.
fn load(
    case: &Case,
    read: &impl Fn(&str) -> Result<String, String>,
    repository: &mut Repository,
    failures: &mut Vec<String>,
) {
    let options = case.parse_options();
    let mut refused: BTreeSet<&str> = BTreeSet::new();
    let mut take = |name: &str, parsed: ParsedFile, failures: &mut Vec<String>| {
        let expected = case.rejected.iter().find(|rejected| rejected.policy == name);
        match expected {
            Some(rejected) => {
                refused.insert(&rejected.policy);
                if !says(&parsed.errors, &rejected.error) {
                    let errors = shown(&parsed.errors);
                    failures.push(format!("{name}: wanted the error \"{}\", got {errors}", rejected.error));
                }
            }
            None if parsed.errors.is_empty() => {}
            None => failures.push(format!("{name}: refused: {}", shown(&parsed.errors))),
        }
        for object in parsed.objects {
            repository.upsert(object);
        }
    };
    for node in &case.policies {
        match Document::of_node(&case.id, node.clone()) {
            Ok(document) => {
                let parsed = parse_policy_document(&case.id, &document, options);
                let is_other = parsed.objects.is_empty() && parsed.errors.is_empty();
                take(&document.name, parsed, failures);
                if is_other {
                    failures.push(format!("{} {} is no policy", document.kind, document.name));
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    for file in &case.policy_files {
        match read(file) {
            Ok(text) => {
                for document in crate::document::split_documents(file, &text) {
                    match document {
                        Ok(document) => {
                            take(&document.name, parse_policy_document(file, &document, options), failures);
                        }
                        Err(error) => failures.push(error.to_string()),
                    }
                }
            }
            Err(cause) => failures.push(cause),
        }
    }
    for rejected in case.rejected.iter().filter(|rejected| !refused.contains(rejected.policy.as_str())) {
        failures.push(format!("{}: shall be refused, but is not among the policies", rejected.policy));
    }
}

fn shown(errors: &[DocumentError]) -> String {
    if errors.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
    texts.join("; ")
}

/// Whether one of the errors is of the wanted kind; "combining A and B" may name them in either order.
fn says(errors: &[DocumentError], wanted: &str) -> bool {
    let mut forms = vec![wanted.to_owned()];
    if let Some(rest) = wanted.strip_prefix("combining ")
        && let Some((pair, tail)) = rest.split_once(" is ")
        && let Some((a, b)) = pair.split_once(" and ")
    {
        forms.push(format!("combining {b} and {a} is {tail}"));
    }
    errors.iter().any(|error| forms.iter().any(|form| error.status_message().contains(form)))
}

fn play_probe(world: &World<'_>, case: &Case, probe: &Probe, subjects: &mut Subjects) -> PlayedProbe {
    let mut played = PlayedProbe {
        from: probe.from.clone(),
        to: probe.to.clone(),
        l4: probe.shown_l4(),
        expect: probe.expect,
        got: None,
        side: None,
        audited: false,
        has_request: probe.l7.is_some(),
        policies: Vec::new(),
        failure: None,
        answers: Vec::new(),
    };
    played.failure = match ask_both(world, case, probe, subjects, &mut played) {
        Ok(got) => {
            played.got = Some(got);
            compare(probe, &played, got)
        }
        Err(cause) => Some(cause),
    };
    played
}

fn ask_both(
    world: &World<'_>,
    case: &Case,
    probe: &Probe,
    subjects: &mut Subjects,
    played: &mut PlayedProbe,
) -> Result<Expect, String> {
    let mut got = Expect::Allow;
    for question in world.questions(probe)? {
        let answer = world.answer(&question, subjects)?;
        let side = question.side;
        played.policies.extend(answer.policies.iter().filter(|name| !name.starts_with("allow-")).cloned());
        let (verdict, audited) = (answer.verdict, answer.audited || case.options.audit_mode);
        let passes_request = probe.l7.as_ref().is_none_or(|l7| answer.requests.allows(&l7.request()));
        played.answers.push((question, answer));
        got = match verdict {
            Verdict::Allow => continue,
            Verdict::Redirect if passes_request => continue,
            Verdict::Redirect => Expect::DenyL7,
            Verdict::Deny | Verdict::DefaultDeny | Verdict::AuthRequired if audited => {
                played.audited = true;
                continue;
            }
            Verdict::Deny | Verdict::DefaultDeny | Verdict::AuthRequired => Expect::Deny,
        };
        played.side = Some(side);
        break;
    }
    Ok(got)
}

fn compare(probe: &Probe, played: &PlayedProbe, got: Expect) -> Option<String> {
    let by = || match played.policies.as_slice() {
        [] => "by no policy".to_owned(),
        names => format!("by {}", names.join(", ")),
    };
    if got != probe.expect {
        return Some(format!("expected {}, got {} {}", probe.expect, got, by()));
    }
    if played.audited != probe.audited {
        let (wanted, got) = (probe.audited, played.audited);
        return Some(format!("expected audited {wanted}, got audited {got} {}", by()));
    }
    if let (Some(wanted), Some(side)) = (probe.at, played.side)
        && wanted != side
    {
        return Some(format!("expected it to be refused at {wanted}, it is at {side} {}", by()));
    }
    let missing = probe.policies().into_iter().find(|policy| !played.policies.contains(policy));
    missing.map(|policy| format!("expected policy {policy} among those that decide, decided {}", by()))
}
