//! Runs every case of `policy-cases.yaml` against the evaluator and against the policy map.
//!
//! What is not supported yet is listed in [`UNSUPPORTED`] with its reason. A case outside the list must pass. An item
//! of the list must have at least one failing case, so that the list cannot outlive its reason.

#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/world.rs"]
mod world;

use std::collections::BTreeMap;

use specola_policy::{DocumentError, ParseOptions, Repository, parse_policies_with};

use crate::cases::{Case, CaseFile, Expect, Probe};
use crate::world::{Outcome, World};

/// Features, or single cases, that the engine refuses, with the reason.
const UNSUPPORTED: [(&str, &str); 0] = [];

#[test]
fn all_cases() {
    let file: CaseFile = serde_saphyr::from_str(include_str!("policy-cases.yaml")).unwrap();
    let mut report = Report::default();
    for case in &file.cases {
        let failures = run(&file, case);
        report.add(case, failures);
    }
    report.finish();
}

#[derive(Default)]
struct Report {
    passed: usize,
    /// Per item of the list: cases that pass and cases that fail.
    listed: BTreeMap<&'static str, (usize, usize)>,
    unexpected: Vec<String>,
}

impl Report {
    fn add(&mut self, case: &Case, failures: Vec<String>) {
        let listed = UNSUPPORTED.iter().find(|(name, _)| *name == case.feature || *name == case.id);
        match listed {
            Some((name, _)) => {
                let (passed, failed) = self.listed.entry(*name).or_default();
                *(if failures.is_empty() { passed } else { failed }) += 1;
            }
            None if failures.is_empty() => self.passed += 1,
            None => {
                self.unexpected.push(format!("{} ({}):\n  {}", case.id, case.feature, failures.join("\n  ")))
            }
        }
    }

    fn finish(self) {
        eprintln!("{} cases of supported features pass", self.passed);
        for (name, reason) in UNSUPPORTED {
            let (passed, failed) = self.listed.get(name).copied().unwrap_or_default();
            eprintln!("{name}: {failed} fail, {passed} pass: {reason}");
        }
        assert!(self.unexpected.is_empty(), "{}", self.unexpected.join("\n"));
        assert!(self.passed > 0);
        for (name, _) in UNSUPPORTED {
            let failed = self.listed.get(name).map_or(0, |(_, failed)| *failed);
            assert!(failed > 0, "{name} passes: take it off the list");
        }
    }
}

/// Runs a case and returns what went wrong.
fn run(file: &CaseFile, case: &Case) -> Vec<String> {
    let cluster = &file.clusters[&case.cluster];
    let mut repository = Repository::new(case.settings(&cluster.cluster_name));
    world::add_objects(cluster, &mut repository);
    let mut failures = Vec::new();
    for policy in &case.policies {
        load(case, policy, &mut repository, &mut failures);
    }
    world::answer_groups(cluster, &mut repository);
    let world = World::new(cluster, case, &repository);
    for (index, probe) in case.probes.iter().enumerate() {
        if let Err(cause) = check(&world, probe) {
            failures.push(format!(
                "probe {index} {} -> {} {}: {cause}",
                probe.from,
                probe.to,
                probe.port.unwrap_or_default()
            ));
        }
    }
    failures
}

fn load(case: &Case, policy: &serde_json::Value, repository: &mut Repository, failures: &mut Vec<String>) {
    let options = ParseOptions {
        node_selector_labels: case.options.node_selector_labels,
        extended_protocols: case.options.extended_protocols,
        cidr_groups: true,
        services: true,
        fqdn: true,
        cluster_network_policy: case.options.kcnp,
    };
    let name = policy["metadata"]["name"].as_str().unwrap_or_default();
    let text = serde_json::to_string_pretty(policy).unwrap();
    let parsed = parse_policies_with(&case.id, &text, options);
    let expected = case.rejected.iter().find(|rejected| rejected.policy == name);
    match (expected, parsed.errors.as_slice()) {
        (Some(rejected), errors) if says(errors, &rejected.error) => {
            assert!(parsed.objects.is_empty(), "a refused object was returned");
        }
        (Some(rejected), errors) => {
            failures.push(format!("{name}: wanted refusal \"{}\", got {errors:?}", rejected.error))
        }
        (None, []) => {
            assert_eq!(parsed.objects.len(), 1, "{name}");
            for object in parsed.objects {
                repository.upsert(object);
            }
        }
        (None, errors) => failures.push(format!("{name}: refused: {errors:?}")),
    }
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

fn check(world: &World<'_>, probe: &Probe) -> Result<(), String> {
    let Outcome { expect, side, audited, policies } = world.outcome(probe)?;
    if expect != probe.expect || audited != probe.audited {
        return Err(format!(
            "wanted {:?} (audited {}), got {expect:?} (audited {audited}) by {policies:?}",
            probe.expect, probe.audited
        ));
    }
    if probe.at.is_some() && probe.expect == Expect::Deny && probe.at != side {
        return Err(format!("wanted denial at {:?}, got it at {side:?}", probe.at));
    }
    for policy in probe.policies() {
        if !policies.contains(policy) {
            return Err(format!("wanted policy {policy} among {policies:?}"));
        }
    }
    Ok(())
}
