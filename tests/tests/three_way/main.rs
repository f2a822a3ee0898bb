//! Three ways to decide a packet give one answer: the rules as written, the policy map made of them, and the kernel
//! programs with that map.
//!
//! Random policies go the product's way from YAML to the kernel: parser, resolution, the agent's translation, the
//! datapath's double-buffered tries. Needs root and bpf(2); nothing is attached.

mod cluster;
mod node;
mod packets;
mod policies;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::Value;
use specola_policy::eval::{self, Verdict, evaluate};
use specola_policy::{
    EndpointPolicy, Key, OriginSet, ParseOptions, Repository, Settings, Subject, parse_policies_with, resolve,
};
use specola_tests::seed;

use crate::cluster::Cluster;
use crate::node::{Node, Seen};
use crate::packets::Packet;
use crate::policies::SUBJECTS;

/// Policies with the settings and the pod that they are for.
#[derive(Clone, Debug)]
struct World {
    documents: Vec<Value>,
    settings: Settings,
    /// Index into [`SUBJECTS`].
    subject: usize,
}

/// One of the three answers.
#[derive(Debug, Eq, PartialEq)]
struct Answer {
    verdict: Verdict,
    /// Passes all the same.
    audited: bool,
    origins: OriginSet,
}

/// Everything that the answers come from.
struct Decided {
    subject: Subject,
    cluster: Cluster,
    repository: Repository,
    policy: EndpointPolicy,
}

#[test]
fn rules_map_and_kernel_agree() {
    let node = RefCell::new(Node::start());
    let tally = RefCell::new(Tally::default());
    let strategy = (world(), prop::collection::vec(packets::packet(), PACKETS));
    let cases = run(2_000, &strategy, |(world, packets)| {
        let node = &mut *node.borrow_mut();
        let decided = decide_and_realize(node, &world);
        for packet in &packets {
            let seen = node.send(packet, &decided.cluster);
            let answer = compare(node, &world, &decided, packet, &seen, Stage::First)?;
            tally.borrow_mut().add(packet.egress, answer);
        }
        Ok(())
    });
    if cases >= TELLING {
        tally.into_inner().assert_complete();
    }
}

#[test]
fn open_connections_follow_a_change_of_policy() {
    let node = RefCell::new(Node::start());
    let strategy = (world(), world(), 0..2_u32, prop::collection::vec(packets::packet(), 20));
    run(200, &strategy, |(before, after, side, packets)| {
        let node = &mut *node.borrow_mut();
        let decided = decide_and_realize(node, &before);
        node.use_trie(side, &decided.policy);
        let mut open = Vec::new();
        for packet in packets.iter().filter(|packet| packet.has_ports()) {
            let seen = node.send(packet, &decided.cluster);
            compare(node, &before, &decided, packet, &seen, Stage::First)?;
            if seen.passed() {
                open.push((packet, seen));
            }
        }
        let decided = decide_and_begin_to_realize(node, &after);
        for (packet, first) in open {
            let seen = node.send_again(&first);
            compare(node, &after, &decided, packet, &seen, Stage::Later)?;
        }
        Ok(())
    });
}

/// Tries as many cases as asked for, or as `PROPTEST_CASES` says: the usual ones, then a quarter of as many that were not
/// tried before. `SPECOLA_POLICY_SEED` tries those of one seed only. Returns how many there were.
fn run<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) -> u32 {
    let cases = match std::env::var("PROPTEST_CASES") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("PROPTEST_CASES={text}: {error}")),
        Err(_) => cases,
    };
    let parts = match seed::given() {
        Some(seed) => vec![(seed, cases)],
        None => vec![(SEED, cases), (seed::fresh(), cases.div_ceil(4))],
    };
    for (seed, cases) in &parts {
        let config = ProptestConfig { cases: *cases, failure_persistence: None, ..ProptestConfig::default() };
        let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let result = TestRunner::new_with_rng(config, rng).run(strategy, &test);
        result.unwrap_or_else(|error| panic!("SPECOLA_POLICY_SEED={seed}: {error}"));
    }
    parts.iter().map(|(_, cases)| cases).sum()
}

fn world() -> impl Strategy<Value = World> {
    (policies::documents(), policies::settings(), policies::subject())
        .prop_map(|(documents, settings, subject)| World { documents, settings, subject })
}

/// Lets the engine decide and the kernel enforce; connections of earlier policies are forgotten.
fn decide_and_realize(node: &mut Node, world: &World) -> Decided {
    let decided = decide(world);
    node.forget_connections();
    node.know_addresses(&decided.cluster);
    node.realize(&decided.policy);
    decided
}

/// The same while connections go on, as they see it in the middle of the update.
fn decide_and_begin_to_realize(node: &mut Node, world: &World) -> Decided {
    let decided = decide(world);
    node.know_addresses(&decided.cluster);
    node.realize_first_half(&decided.policy);
    decided
}

fn decide(world: &World) -> Decided {
    let mut repository = Repository::new(world.settings.clone());
    let options = ParseOptions { cluster_network_policy: true, ..ParseOptions::default() };
    let parsed = parse_policies_with("generated.yaml", &world.yaml(), options);
    assert!(parsed.is_valid() && parsed.objects.len() == world.documents.len(), "{:#?}", parsed.errors);
    for object in parsed.objects {
        repository.upsert(object);
    }
    let cluster = Cluster::new(&repository);
    let subject = policies::subject_of(world.subject);
    let policy = resolve(&repository, &subject, cluster.identities()).expect("policies fit the map");
    Decided { subject, cluster, repository, policy }
}

/// How often each answer came: policies and packets that never meet would agree about nothing.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn add(&mut self, egress: bool, (verdict, match_type): (Verdict, u8)) {
        for key in [format!("{verdict:?}, egress {egress}"), format!("match type {match_type}")] {
            *self.0.entry(key).or_default() += 1;
        }
    }

    /// Five verdicts in both directions, seven match types.
    fn assert_complete(&self) {
        eprintln!("{:#?}", self.0);
        assert_eq!(self.0.len(), 2 * 5 + 7, "some answer was never asked for: {self:#?}");
    }
}

/// Whether the packet began its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    First,
    /// The connection goes on under another policy.
    Later,
}

fn compare(
    node: &Node,
    world: &World,
    decided: &Decided,
    packet: &Packet,
    seen: &Seen,
    stage: Stage,
) -> Result<(Verdict, u8), TestCaseError> {
    let peer = decided.cluster.identity(seen.peer());
    let question = eval::Packet { peer, egress: packet.egress, proto: seen.proto(), port: seen.port() };
    let decision = evaluate(&decided.repository, &decided.subject, decided.cluster.identities(), question);
    let by_rules = Answer { verdict: decision.verdict, audited: decision.audited, origins: decision.origins };
    let (by_map, hit) = look_up(&decided.policy, question);
    let match_type = match_type(hit.as_ref());
    let by_kernel = node.check(seen, &question, stage == Stage::First, match_type, &by_rules);
    let agree = by_rules == by_map && by_kernel.is_ok();
    let explain = || {
        TestCaseError::fail(format!(
            "{world}\n--- packet ({stage:?}): {question:?} {packet:?}, peer {} \n--- rules: {by_rules}\n\
             --- map: {by_map} by {hit:?}\n--- kernel: {}\n{seen:#?}",
            seen.peer(),
            by_kernel.as_ref().map_or_else(String::as_str, |()| "as the rules"),
        ))
    };
    if agree { Ok((by_rules.verdict, match_type)) } else { Err(explain()) }
}

/// The map's answer, and the key of the entry that gave it.
fn look_up(policy: &EndpointPolicy, question: eval::Packet) -> (Answer, Option<Key>) {
    let eval::Packet { peer, egress, proto, port } = question;
    let Some((key, entry)) = policy.map.lookup(peer, egress, proto, port) else {
        let selected_by = if egress { &policy.egress_selected_by } else { &policy.ingress_selected_by };
        let origins = selected_by.clone();
        return (Answer { verdict: Verdict::DefaultDeny, audited: false, origins }, None);
    };
    let verdict = match (entry.deny, entry.redirect) {
        (true, _) if entry.by_default => Verdict::DefaultDeny,
        (true, _) => Verdict::Deny,
        (false, _) if entry.auth != 0 => Verdict::AuthRequired,
        (false, true) => Verdict::Redirect,
        (false, false) => Verdict::Allow,
    };
    (Answer { verdict, audited: entry.audit, origins: entry.origins.clone() }, Some(*key))
}

/// How the kernel names a hit.
fn match_type(hit: Option<&Key>) -> u8 {
    use specola_datapath::abi::event::match_type;
    let Some(key) = hit else { return match_type::NONE };
    match (key.identity, key.proto, key.port_bits) {
        (0, 0, _) => match_type::ALL,
        (0, _, 0) => match_type::PROTO_ONLY,
        (0, ..) => match_type::L4_ONLY,
        (_, 0, _) => match_type::L3_ONLY,
        (_, _, 0) => match_type::L3_PROTO,
        _ => match_type::L3_L4,
    }
}

impl World {
    fn yaml(&self) -> String {
        let document = |value: &Value| serde_saphyr::to_string(value).expect("JSON is YAML");
        self.documents.iter().map(document).collect::<Vec<_>>().join("---\n")
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { mode, allow_localhost, .. } = &self.settings;
        let subject = SUBJECTS[self.subject];
        write!(
            f,
            "--- policies of {subject:?} in mode {mode:?}, localhost {allow_localhost:?}\n{}",
            self.yaml()
        )
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{} by", self.verdict, if self.audited { " (audited)" } else { "" })?;
        for origin in self.origins.iter() {
            write!(f, " {}:{}[{}]", origin.object_name(), origin.section.as_str(), origin.rule_index)?;
        }
        Ok(())
    }
}

/// Cases from which on every kind of answer is certain to occur.
const TELLING: u32 = 200;
/// What finds the same cases every time.
const SEED: u64 = 20_261_123;
/// Packets per set of policies.
const PACKETS: usize = 50;
