//! Two hundred random policies, real connections between all pods, and three answers to each verdict: what the flow
//! carries, what `policy why` says of the flow's uuid, and what an evaluator says that shares no code with the product.

mod cluster;
mod oracle;
mod policies;
mod probes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use specola_testkit::eventually;
use specola_tests::sandbox::{PATIENCE, check};
use specola_tests::{Flow, Sandbox};

use crate::cluster::{NODES, OUTSIDE, Pod, TCP, UDP, pods};
use crate::oracle::{Answer, Peer, Question, Verdict, decide};
use crate::policies::{Random, policies};
use crate::probes::Probe;

const POLICIES: usize = 200;
/// Verdicts that `policy why` is asked about.
const ASKED: usize = 1000;
/// Uuids in one call of `policy why`.
const BATCH: usize = 250;
/// Of these, so many are asked one by one.
const ONE_BY_ONE: usize = 30;
/// What finds the same policies every time; `SPECOLA_POLICY_SEED` has another one, or `fresh` for one of its own.
const SEED: u64 = 20_261_123;

/// Connections to try, by the network namespace that they come from.
type Plan = Vec<(PathBuf, Vec<Probe>)>;
/// Source, destination, protocol, port, whether it is the sender's verdict.
type Key = (IpAddr, IpAddr, &'static str, u16, bool);

#[test]
fn flow_why_and_oracle_name_the_same_rules() {
    let seed = specola_tests::seed::given().unwrap_or(SEED);
    eprintln!("SPECOLA_POLICY_SEED={seed}");
    let mut random = Random(seed);
    let policies = policies(&mut random, POLICIES);
    let documents: Vec<String> =
        cluster::objects().iter().chain(&policies).map(|object| format!("{object}\n")).collect();
    let ring = [("SPECOLA_RING_SIZE", "65536")];
    let sandbox = Sandbox::up_in("random-policies", &documents.join("---\n"), &[], &ring);

    let world = World::new(&sandbox);
    let (probes, expected) = world.plan(&policies);
    let servers: Vec<_> = world.pods.iter().map(|(_, place)| probes::serve(&place.netns)).collect();
    assert!(servers.iter().all(|servers| servers.datagram_sockets() == UDP.len()));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let run = |(netns, probes): &(PathBuf, Vec<Probe>)| probes::run(netns, probes);
        let running: Vec<_> = probes.iter().map(|one| scope.spawn(move || run(one))).collect();
        running.into_iter().flat_map(|one| one.join().expect("a probe panicked")).collect()
    });
    assert!(wrong.is_empty(), "seed {seed}: {} connections: {wrong:#?}", wrong.len());

    let flows = eventually("every verdict is a flow", PATIENCE, || {
        let flows = verdicts(&sandbox);
        match expected.keys().find(|key| !flows.contains_key(*key)) {
            None => Ok(flows),
            Some(key) => Err(format!("{} of {} verdicts, {key:?} is missing", flows.len(), expected.len())),
        }
    });
    compare(&sandbox, &mut random, &expected, &flows, seed);
}

fn compare(
    sandbox: &Sandbox,
    random: &mut Random,
    expected: &BTreeMap<Key, Answer>,
    flows: &BTreeMap<Key, Flow>,
    seed: u64,
) {
    // By direction and verdict, audited or not; and by direction, family and verdict.
    let mut counts: BTreeMap<(bool, Verdict, bool), usize> = BTreeMap::new();
    let mut of_families: BTreeMap<(bool, bool, Verdict), usize> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for (key, answer) in expected {
        *counts.entry((key.4, answer.verdict, answer.audited)).or_default() += 1;
        *of_families.entry((key.4, key.1.is_ipv6(), answer.verdict)).or_default() += 1;
        let carried = carried(&flows[key]);
        if carried != *answer {
            mistakes.push(format!("{key:?}: flow {carried:?}, oracle {answer:?}"));
        }
    }
    eprintln!("{} verdicts (egress?, verdict, audited?): {counts:?}", expected.len());
    assert_eq!(counts.len(), 10, "each verdict in each direction, enforced and audited: {counts:?}");
    assert_eq!(of_families.len(), 12, "each verdict in each direction and family: {of_families:?}");
    assert!(expected.len() >= ASKED, "only {} verdicts", expected.len());
    let mut keys: Vec<&Key> = expected.keys().collect();
    for index in (1..keys.len()).rev() {
        keys.swap(index, random.below(index + 1));
    }
    keys.truncate(ASKED);
    let (alone, together) = keys.split_at(ONE_BY_ONE);
    for batch in alone.chunks(1).chain(together.chunks(BATCH)) {
        let uuids: Vec<&str> = batch.iter().map(|key| flows[*key].text("/uuid")).collect();
        for (key, why) in batch.iter().zip(why(sandbox, &uuids)) {
            assert_eq!(why["uuid"], flows[*key].text("/uuid"));
            let named = named(&why, key.4);
            if named.as_ref() != Some(&expected[*key]) {
                mistakes.push(format!("{key:?}: why {named:?}, oracle {:?}", expected[*key]));
            }
        }
    }
    let first = mistakes.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(mistakes.is_empty(), "seed {seed}: {} differ:\n{first}", mistakes.len());
}

/// `specola policy why`: one answer for each flow.
fn why(sandbox: &Sandbox, uuids: &[&str]) -> Vec<Value> {
    let mut command = sandbox.specola(&["policy", "why", "--sandbox", sandbox.name(), "-o", "json"]);
    let said = check(command.args(uuids));
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    match answer["answers"].as_array() {
        Some(answers) => answers.clone(),
        None => vec![answer],
    }
}

/// What `policy why` says of one direction.
fn named(why: &Value, egress: bool) -> Option<Answer> {
    let direction = if egress { "egress" } else { "ingress" };
    let step = why["steps"].as_array()?.iter().find(|step| step["direction"] == direction)?;
    let verdict = match step["verdict"].as_str()? {
        "allow" => Verdict::Allow,
        "deny" => Verdict::Deny,
        "default-deny" => Verdict::DefaultDeny,
        _ => return None,
    };
    let audited = step["audited"].as_bool()?;
    Some(Answer { verdict, audited, rules: rules(&step["rules"]) })
}

/// What a flow says itself.
fn carried(flow: &Flow) -> Answer {
    let extension = &flow.json()["extensions"];
    let verdict = match (flow.verdict(), flow.drop_reason()) {
        ("FORWARDED", _) => Verdict::Allow,
        // The rules that would deny; without one it is for want of an allow.
        ("AUDIT", _) if rules(&extension["origins"]).iter().any(|rule| rule.contains("Deny[")) => {
            Verdict::Deny
        }
        ("AUDIT", _) => Verdict::DefaultDeny,
        ("DROPPED", "POLICY_DENY") => Verdict::Deny,
        ("DROPPED", "POLICY_DENIED") => Verdict::DefaultDeny,
        _ => panic!("{}", flow.json()),
    };
    Answer { verdict, audited: flow.verdict() == "AUDIT", rules: rules(&extension["origins"]) }
}

fn rules(list: &Value) -> BTreeSet<String> {
    let text = |rule: &Value, field: &str| rule[field].as_str().unwrap_or_default().to_owned();
    let name = |rule: &Value| match text(rule, "kind").as_str() {
        "" => text(rule, "name"),
        kind => format!(
            "{kind} {}/{} {}[{}]",
            text(rule, "namespace"),
            text(rule, "name"),
            text(rule, "section"),
            rule["rule_index"].as_u64().unwrap_or(0)
        ),
    };
    list.as_array().into_iter().flatten().map(name).collect()
}

/// All verdicts that the agents have seen; each connection was tried once.
fn verdicts(sandbox: &Sandbox) -> BTreeMap<Key, Flow> {
    let mut found = BTreeMap::new();
    for flow in sandbox.observe(&["--type", "policy-verdict"]) {
        let l4 = &flow.json()["l4"];
        let (proto, port) = if let Some(icmp) = l4.get("ICMPv4") {
            ("ICMP", icmp["type"].as_u64().unwrap_or(0))
        } else if let Some(icmp) = l4.get("ICMPv6") {
            ("ICMPv6", icmp["type"].as_u64().unwrap_or(0))
        } else if l4.get("UDP").is_some() {
            ("UDP", flow.destination_port())
        } else {
            ("TCP", flow.destination_port())
        };
        let (Ok(from), Ok(to)) = (flow.text("/IP/source").parse(), flow.text("/IP/destination").parse())
        else {
            continue;
        };
        let port = u16::try_from(port).expect("a port");
        found.insert((from, to, proto, port, flow.direction() == "EGRESS"), flow);
    }
    found
}

/// Where something is.
#[derive(Debug)]
struct Place {
    netns: PathBuf,
    /// One of each family.
    addresses: [IpAddr; 2],
}

#[derive(Debug)]
struct World {
    pods: Vec<(Pod, Place)>,
    nodes: Vec<(&'static str, Place)>,
}

/// What a connection goes to.
enum Target<'a> {
    Pod(&'a Pod),
    Node(&'static str),
    Outside(IpAddr),
}

impl World {
    fn new(sandbox: &Sandbox) -> Self {
        let ps = sandbox.ps();
        let list = |name: &str| ps[name].as_array().expect("a list").clone();
        let place = |entry: &Value, addresses: &str| {
            let addresses = entry[addresses].as_array().expect("a list");
            let addresses = addresses.iter().filter_map(|text| text.as_str()?.parse().ok());
            let addresses: Vec<IpAddr> = addresses.collect();
            let of_family = |v6: bool| addresses.iter().find(|address| address.is_ipv6() == v6);
            let addresses = [false, true].map(|v6| *of_family(v6).expect("an address of each family"));
            Place { netns: entry["netns"].as_str().expect("a path").into(), addresses }
        };
        let pod = |pod: Pod| {
            let is_it = |entry: &&Value| entry["namespace"] == pod.namespace && entry["name"] == pod.app;
            let place = place(list("pods").iter().find(is_it).expect("the pod runs"), "ips");
            (pod, place)
        };
        let node = |name| {
            let nodes = list("nodes");
            let entry = nodes.iter().find(|entry| entry["name"] == name).expect("the node runs");
            (name, place(entry, "addresses"))
        };
        Self { pods: pods().into_iter().map(pod).collect(), nodes: NODES.into_iter().map(node).collect() }
    }

    /// Which connections to try from where, and what the oracle says of each.
    fn plan(&self, policies: &[Value]) -> (Plan, BTreeMap<Key, Answer>) {
        let (mut plan, mut expected) = (Vec::new(), BTreeMap::new());
        for (pod, place) in &self.pods {
            let mut probes = Vec::new();
            for (target, to) in self.targets().filter(|(_, to)| !place.addresses.contains(to)) {
                let own = place.addresses[usize::from(to.is_ipv6())];
                for (proto, port) in ports(to) {
                    let key = |egress| (own, to, proto, port, egress);
                    let peer = match target {
                        Target::Pod(other) => Peer::Pod(other),
                        Target::Node(node) if node == pod.node => Peer::LocalNode,
                        Target::Node(_) => Peer::RemoteNode,
                        Target::Outside(address) => Peer::Outside(address),
                    };
                    let sent = decide(policies, Question { pod, egress: true, peer, proto, port });
                    let mut connects = sent.passes();
                    expected.insert(key(true), sent);
                    if let (Target::Pod(receiver), true) = (&target, connects) {
                        let peer = Peer::Pod(pod);
                        let question = Question { pod: receiver, egress: false, peer, proto, port };
                        let received = decide(policies, question);
                        connects = received.passes();
                        expected.insert(key(false), received);
                    } else {
                        connects = false;
                    }
                    probes.push(Probe { to, proto, port, connects });
                }
            }
            plan.push((place.netns.clone(), probes));
        }
        for (node, place) in &self.nodes {
            let mut probes = Vec::new();
            for (pod, to) in self.pods.iter().flat_map(|(pod, to)| to.addresses.map(|address| (pod, address)))
            {
                let from = probes::source_address(&place.netns, to);
                let peer = if *node == pod.node { Peer::LocalNode } else { Peer::RemoteNode };
                for (proto, port) in ports(to) {
                    let received = decide(policies, Question { pod, egress: false, peer, proto, port });
                    let connects = received.passes();
                    probes.push(Probe { to, proto, port, connects });
                    expected.insert((from, to, proto, port, false), received);
                }
            }
            plan.push((place.netns.clone(), probes));
        }
        (plan, expected)
    }

    fn targets(&self) -> impl Iterator<Item = (Target<'_>, IpAddr)> {
        let pods = self.pods.iter().flat_map(|(pod, place)| place.addresses.map(|to| (Target::Pod(pod), to)));
        let nodes =
            self.nodes.iter().flat_map(|(name, place)| place.addresses.map(|to| (Target::Node(name), to)));
        let outside = OUTSIDE.into_iter().map(|text| text.parse().expect("an address"));
        pods.chain(nodes).chain(outside.map(|address| (Target::Outside(address), address)))
    }
}

fn ports(to: IpAddr) -> impl Iterator<Item = (&'static str, u16)> {
    let tcp = TCP.into_iter().map(|port| ("TCP", port));
    let echo = if to.is_ipv6() { ("ICMPv6", 128) } else { ("ICMP", 8) };
    tcp.chain(UDP.into_iter().map(|port| ("UDP", port))).chain([echo])
}
