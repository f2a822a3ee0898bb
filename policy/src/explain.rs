//! Why a connection passes or not: the verdict of each end, the rules behind it with their lines, and what to change.

mod change;
mod lines;

use std::collections::HashMap;

use specola_labels::NumericIdentity;

pub use self::change::Change;
pub use self::lines::Place;
use self::lines::place_of;
use crate::eval::{Decision, Packet, Verdict, evaluate};
use crate::identities::IdentityTable;
use crate::origin::Origin;
use crate::repository::Repository;
use crate::resolve::Subject;
use crate::rule::PolicyRef;
use crate::yaml::Node;

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    /// Name for messages, such as `namespace/pod`.
    pub name: String,
    /// Its identity as the other end sees it.
    pub identity: NumericIdentity,
    /// What policies select it by; none for an end that no policy governs here.
    pub subject: Option<Subject>,
    /// What policies would drop at this end passes, and is reported as audited.
    pub audit: bool,
}

/// A connection that somebody asks about.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who opens it.
    pub from: End,
    /// Who accepts it.
    pub to: End,
    /// IANA protocol number.
    pub proto: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// What becomes of a connection, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Whether it passes both ends.
    pub passes: bool,
    /// The ends that policies govern, in the order in which packets meet them: sender, then receiver.
    pub steps: Vec<Step>,
}

/// The verdict of one end.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whether it is about what the endpoint sends.
    pub egress: bool,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Name of the other end.
    pub peer: String,
    /// What happens, and the rules that ask for it.
    pub decision: Decision,
    /// Where these rules are, in the order of the decision's origins; built-in ones have no place.
    pub places: Vec<(Origin, Option<Place>)>,
    /// Policies that select the endpoint and speak of the direction.
    pub selected_by: Vec<PolicyRef>,
}

impl Step {
    /// Whether packets go on.
    pub fn passes(&self) -> bool {
        self.decision.audited || self.decision.verdict.passes()
    }
}

/// Explains connections under the policies in force. One explainer reads the document of each policy once.
#[derive(Debug)]
pub struct Explainer<'a> {
    repository: &'a Repository,
    identities: &'a IdentityTable,
    /// None: the text cannot be read.
    documents: HashMap<PolicyRef, Option<Node>>,
}

impl<'a> Explainer<'a> {
    /// An explainer of these policies.
    pub fn new(repository: &'a Repository, identities: &'a IdentityTable) -> Self {
        Self { repository, identities, documents: HashMap::new() }
    }

    /// Explains what becomes of a connection.
    pub fn explain(&mut self, connection: &Connection) -> Explanation {
        let verdicts = verdicts(self.repository, self.identities, connection);
        let passes = verdicts.iter().all(EndVerdict::passes);
        Explanation { passes, steps: verdicts.into_iter().map(|verdict| self.step(verdict)).collect() }
    }

    /// Finds the smallest change of policies that lets the connection pass, or that drops it when it passes; none when
    /// policies alone cannot. What is found was tried, which takes far longer than [`Self::explain`].
    pub fn smallest_change(&self, connection: &Connection) -> Option<Change> {
        change::find(self.repository, self.identities, connection)
    }

    fn step(&mut self, verdict: EndVerdict<'_>) -> Step {
        let EndVerdict { egress, own, subject, peer, decision } = verdict;
        let by_selection = decision.verdict == Verdict::DefaultDeny;
        let origins = decision.origins.iter();
        let places = origins.map(|origin| (origin.clone(), self.place(origin, by_selection))).collect();
        let selecting = self.repository.iter().filter(|stored| {
            let mut rules = stored.rules().iter();
            rules.any(|rule| rule.direction(egress).present && rule.selects(&subject.labels, subject.is_host))
        });
        let selected_by = selecting.map(|stored| stored.object().reference.clone()).collect();
        let (endpoint, peer) = (own.name.clone(), peer.name.clone());
        Step { egress, endpoint, peer, decision, places, selected_by }
    }

    fn place(&mut self, origin: &Origin, by_selection: bool) -> Option<Place> {
        let reference = origin.policy_ref()?;
        let object = self.repository.get(&reference)?.object();
        let root = self.documents.entry(reference).or_insert_with(|| Node::parse(&object.text).ok());
        place_of(object, root.as_ref()?, origin, by_selection)
    }
}

/// What one end says of a connection.
#[derive(Debug)]
struct EndVerdict<'a> {
    egress: bool,
    own: &'a End,
    subject: &'a Subject,
    peer: &'a End,
    decision: Decision,
}

impl EndVerdict<'_> {
    fn passes(&self) -> bool {
        self.decision.audited || self.decision.verdict.passes()
    }
}

/// The verdicts of both ends, the sender's first.
fn verdicts<'a>(
    repository: &Repository,
    identities: &IdentityTable,
    connection: &'a Connection,
) -> Vec<EndVerdict<'a>> {
    let sides = [(true, &connection.from, &connection.to), (false, &connection.to, &connection.from)];
    let governed = sides.into_iter().filter_map(|(egress, own, peer)| {
        let subject = own.subject.as_ref()?;
        let Connection { proto, port, .. } = *connection;
        let packet = Packet { peer: peer.identity.0, egress, proto, port };
        let mut decision = evaluate(repository, subject, identities, packet);
        decision.audited |= own.audit && !decision.verdict.passes();
        Some(EndVerdict { egress, own, subject, peer, decision })
    });
    governed.collect()
}

#[cfg(test)]
mod tests;
