//! Compares what the workloads say they did with what was observed, per source, destination and port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::seen::{Seen, Tuple};
use crate::state::Cluster;
use crate::workload::journal::{Connection, Kind, Outcome};

/// The two accounts side by side.
#[derive(Debug)]
pub(super) struct Balance {
    pairs: BTreeMap<Pair, Counts>,
    problems: Vec<String>,
}

/// Source, destination, port and protocol, by name.
type Pair = (String, String, u16, String);

/// The connections of a pair, by who says what of them.
#[derive(Debug, Default)]
struct Counts {
    /// Made and answered, says the client.
    made: BTreeSet<Tuple>,
    /// Not made, says the client.
    failed: BTreeSet<Tuple>,
    /// Taken, says the server.
    taken: BTreeSet<Tuple>,
    forward: BTreeSet<Tuple>,
    reply: BTreeSet<Tuple>,
    dropped: BTreeSet<Tuple>,
}

impl Balance {
    pub(super) fn new(cluster: &Cluster, connections: &[Connection], seen: &Seen) -> Self {
        let mut names = BTreeMap::new();
        for pod in &cluster.pods {
            names.extend(pod.ips.iter().map(|ip| (ip.to_string(), pod.full_name())));
        }
        let name = |ip: &String| names.get(ip).unwrap_or(ip).clone();
        let pair = |tuple: &Tuple| (name(&tuple.1), name(&tuple.3), tuple.4, tuple.0.clone());
        let mut pairs: BTreeMap<Pair, Counts> = BTreeMap::new();
        for one in connections {
            let tuple = (one.proto.clone(), one.src.clone(), one.sport, one.dst.clone(), one.dport);
            let counts = pairs.entry(pair(&tuple)).or_default();
            match (one.kind, one.result) {
                (Kind::Accept, _) => counts.taken.insert(tuple),
                (Kind::Connect, Outcome::Ok) => counts.made.insert(tuple),
                (Kind::Connect, _) => counts.failed.insert(tuple),
            };
        }
        for (set, side) in [(&seen.forward, 0), (&seen.reply, 1), (&seen.dropped, 2)] {
            for tuple in set {
                let counts = pairs.entry(pair(tuple)).or_default();
                [&mut counts.forward, &mut counts.reply, &mut counts.dropped][side].insert(tuple.clone());
            }
        }
        let problems = pairs.iter().flat_map(|(pair, counts)| counts.problems(pair)).collect();
        Self { pairs, problems }
    }

    /// What does not agree; empty when both accounts are the same.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// A line per pair.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        for ((source, destination, port, proto), counts) in &self.pairs {
            let sets = [
                &counts.made,
                &counts.failed,
                &counts.taken,
                &counts.forward,
                &counts.reply,
                &counts.dropped,
            ];
            let mut row = vec![source.clone(), format!("{destination}:{port}/{proto}")];
            row.extend(sets.map(|set| set.len().to_string()));
            rows.push(row);
        }
        let mut text = "Connections: the workloads' own logs, and what was observed\n".to_owned();
        text.push_str(&crate::cli::columns(&rows));
        text
    }
}

impl Counts {
    fn problems(&self, (source, destination, port, proto): &Pair) -> Vec<String> {
        let pair = format!("{source} -> {destination}:{port}/{proto}");
        let mut problems = Vec::new();
        for (what, observed) in [
            ("the server took", &self.taken),
            ("were seen to arrive", &self.forward),
            ("were seen answered", &self.reply),
        ] {
            problems.extend(difference(&pair, "the client made", &self.made, what, observed));
        }
        problems.extend(difference(
            &pair,
            "the client could not make",
            &self.failed,
            "were seen dropped",
            &self.dropped,
        ));
        problems
    }
}

fn difference(
    pair: &str,
    first: &str,
    a: &BTreeSet<Tuple>,
    second: &str,
    b: &BTreeSet<Tuple>,
) -> Option<String> {
    if a == b {
        return None;
    }
    let ports =
        |set: Vec<&Tuple>| set.iter().take(5).map(|tuple| tuple.2.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("{pair}: {} {first}, {} {second}", a.len(), b.len());
    for (set, side) in [(a.difference(b).collect::<Vec<_>>(), "first"), (b.difference(a).collect(), "second")]
    {
        if !set.is_empty() {
            // Writing to a string cannot fail.
            _ = write!(text, "; only in the {side}: source port {}", ports(set));
        }
    }
    Some(text)
}

const HEAD: [&str; 8] =
    ["SOURCE", "DESTINATION", "MADE", "FAILED", "TAKEN", "ARRIVED", "ANSWERED", "DROPPED"];

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(kind: Kind, sport: u16, result: Outcome) -> Connection {
        Connection {
            time: jiff::Timestamp::UNIX_EPOCH,
            namespace: "shop".into(),
            pod: "a".into(),
            kind,
            src: "10.0.0.1".into(),
            sport,
            dst: "10.0.0.2".into(),
            dport: 80,
            proto: "TCP".into(),
            result,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    fn tuple(sport: u16) -> Tuple {
        ("TCP".into(), "10.0.0.1".into(), sport, "10.0.0.2".into(), 80)
    }

    fn problems(connections: &[Connection], forward: &[u16], reply: &[u16], dropped: &[u16]) -> Vec<String> {
        let cluster = crate::state::tests::cluster();
        let set = |ports: &[u16]| ports.iter().copied().map(tuple).collect();
        let mut seen = Seen::default();
        (seen.forward, seen.reply, seen.dropped) = (set(forward), set(reply), set(dropped));
        Balance::new(&cluster, connections, &seen).problems().to_vec()
    }

    #[test]
    fn equal_accounts_have_no_problem() {
        let made = [connection(Kind::Connect, 1, Outcome::Ok), connection(Kind::Accept, 1, Outcome::Ok)];
        assert_eq!(problems(&made, &[1], &[1], &[]), [""; 0]);
        let refused = [connection(Kind::Connect, 2, Outcome::Timeout)];
        assert_eq!(problems(&refused, &[], &[], &[2]), [""; 0]);
    }

    #[test]
    fn every_difference_is_told() {
        let made = [connection(Kind::Connect, 1, Outcome::Ok), connection(Kind::Accept, 1, Outcome::Ok)];
        let refused = [connection(Kind::Connect, 1, Outcome::Timeout)];
        for (name, connections, forward, reply, dropped, cause) in [
            ("not seen", &made[..], &[][..], &[1][..], &[][..], "1 the client made, 0 were seen to arrive"),
            ("no reply", &made, &[1], &[], &[], "1 the client made, 0 were seen answered"),
            ("not taken", &made[..1], &[1], &[1], &[], "1 the client made, 0 the server took"),
            ("a drop on an allowed pair", &made, &[1], &[1], &[1], "1 were seen dropped; only in the second"),
            (
                "a connection on a refused pair",
                &refused,
                &[1],
                &[],
                &[1],
                "0 the client made, 1 were seen to arrive",
            ),
            ("seen only", &[], &[3], &[], &[], "only in the second: source port 3"),
            (
                "a drop without an attempt",
                &[],
                &[],
                &[],
                &[3],
                "0 the client could not make, 1 were seen dropped",
            ),
        ] {
            let found = problems(connections, forward, reply, dropped);
            assert!(found.iter().any(|problem| problem.contains(cause)), "{name}: {found:?}");
        }
    }
}
