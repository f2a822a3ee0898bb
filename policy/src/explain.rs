//! Why a connection passes or not: the verdict of each end, the rules behind it with their lines, and what to change.

mod change;
mod lines;

use specola_labels::NumericIdentity;

pub use self::change::Change;
pub use self::lines::{Place, place_of};
use crate::eval::{Decision, Packet, Verdict, evaluate};
use crate::identities::IdentityTable;
use crate::origin::Origin;
use crate::repository::Repository;
use crate::resolve::Subject;
use crate::rule::PolicyRef;

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
    /// What would turn the outcome; none when policies alone cannot.
    pub change: Option<Change>,
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

/// Explains what becomes of a connection under the policies in force.
pub fn explain(repository: &Repository, identities: &IdentityTable, connection: &Connection) -> Explanation {
    let steps = steps(repository, identities, connection);
    let passes = steps.iter().all(Step::passes);
    let change = change::find(repository, identities, connection);
    Explanation { passes, steps, change }
}

/// The verdicts of both ends.
fn steps(repository: &Repository, identities: &IdentityTable, connection: &Connection) -> Vec<Step> {
    let sides = [(true, &connection.from, &connection.to), (false, &connection.to, &connection.from)];
    let governed = sides.into_iter().filter_map(|(egress, own, peer)| {
        let subject = own.subject.as_ref()?;
        let Connection { proto, port, .. } = *connection;
        let packet = Packet { peer: peer.identity.0, egress, proto, port };
        let mut decision = evaluate(repository, subject, identities, packet);
        decision.audited |= own.audit && !decision.verdict.passes();
        let place = |origin: &Origin| (origin.clone(), place_in(repository, origin, decision.verdict));
        let places = decision.origins.iter().map(place).collect();
        let rules = repository.iter().filter(|stored| {
            let mut rules = stored.rules().iter();
            rules.any(|rule| rule.direction(egress).present && rule.selects(&subject.labels, subject.is_host))
        });
        let selected_by = rules.map(|stored| stored.object().reference.clone()).collect();
        let (endpoint, peer) = (own.name.clone(), peer.name.clone());
        Some(Step { egress, endpoint, peer, decision, places, selected_by })
    });
    governed.collect()
}

fn place_in(repository: &Repository, origin: &Origin, verdict: Verdict) -> Option<Place> {
    let stored = repository.get(&origin.policy_ref()?)?;
    place_of(stored.object(), origin, verdict == Verdict::DefaultDeny)
}

#[cfg(test)]
mod tests;
