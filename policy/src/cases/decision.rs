//! What one side of a probe is asked, and what it answers.

use specola_labels::LabelSet;

use super::file::Side;
use crate::eval::{Packet, RequestFilter, Verdict, evaluate};
use crate::resolve::{EndpointPolicy, Subject, resolve};
use crate::{IdentityTable, NamedPorts, Repository};

/// One side's part in a probe: may this packet pass?
#[derive(Clone, Debug)]
pub struct Question {
    /// Which side.
    pub side: Side,
    /// Node of the endpoint.
    pub node: String,
    /// The endpoint whose policy is asked.
    pub subject: Subject,
    /// The packet, as that endpoint's policy sees it.
    pub packet: Packet,
}

/// What a side answers: rules and policy map agree on it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What happens to the packet.
    pub verdict: Verdict,
    /// It passes all the same, as the policy that refuses it is in audit mode.
    pub audited: bool,
    /// Which requests pass on the connection.
    pub requests: RequestFilter,
    /// Policies behind it.
    pub policies: Vec<String>,
    /// Whole policy of the endpoint: index into what [`super::Played::policies`] has.
    pub policy: usize,
}

/// Policies of the endpoints that were asked, each made once.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    keys: Vec<(String, LabelSet, NamedPorts)>,
    pub(super) policies: Vec<EndpointPolicy>,
}

impl Subjects {
    pub(super) fn answer(
        &mut self,
        repository: &Repository,
        question: &Question,
        identities: &IdentityTable,
    ) -> Result<Answer, String> {
        let Question { node, subject, packet, .. } = question;
        let by_rules = evaluate(repository, subject, identities, *packet);
        let key = (node.clone(), subject.labels.clone(), subject.named_ports.clone());
        let policy = match self.keys.iter().position(|known| *known == key) {
            Some(index) => index,
            None => {
                let policy = resolve(repository, subject, identities).map_err(|error| error.to_string())?;
                self.keys.push(key);
                self.policies.push(policy);
                self.policies.len() - 1
            }
        };
        let Some(made) = self.policies.get(policy) else {
            return Err("the policy is not known".to_owned());
        };
        let (verdict, audited, policies) = look_up(made, *packet);
        if (verdict, audited) != (by_rules.verdict, by_rules.audited) {
            let rules = by_rules.verdict;
            return Err(format!(
                "{:?}: the rules say {rules:?}, the policy map says {verdict:?}",
                question.side
            ));
        }
        Ok(Answer { verdict, audited, requests: by_rules.requests, policies, policy })
    }
}

/// What the kernel would do, and the policies that it would name.
fn look_up(policy: &EndpointPolicy, packet: Packet) -> (Verdict, bool, Vec<String>) {
    let Some((_, entry)) = policy.map.lookup(packet.peer, packet.egress, packet.proto, packet.port) else {
        let selected_by =
            if packet.egress { &policy.egress_selected_by } else { &policy.ingress_selected_by };
        return (Verdict::DefaultDeny, false, selected_by.object_names());
    };
    (entry.verdict(), entry.audit, entry.origins.object_names())
}
