//! One endpoint as the node thread knows it.

use std::collections::VecDeque;

use specola_labels::LabelSet;
use specola_policy::{OriginSet, SubjectId, SubjectPolicy};

use crate::desired::{Pod, Shared};
use crate::endpoint::{EndpointFile, State};
use crate::store::CiliumEndpoint;

/// An endpoint with everything that is not on disk.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) file: EndpointFile,
    pub(super) state: State,
    /// Why it is not ready, newest last.
    pub(super) conditions: VecDeque<String>,
    /// Labels of its identity.
    pub(super) labels: LabelSet,
    /// Host side of its link; 0 = not made yet.
    pub(super) ifindex: u32,
    /// Its link still runs the programs of an earlier build.
    pub(super) old_programs: bool,
    /// Identity that the kernel's record has.
    pub(super) recorded: u32,
    /// The policy that the kernel enforces; none before the first, and after a restart.
    pub(super) realized: Option<Realized>,
    /// The engine's number for endpoints like this one.
    pub(super) subject: Option<SubjectId>,
    /// Labels and pod that `subject` was made from.
    pub(super) subject_of: (LabelSet, Option<Shared<Pod>>),
    /// The last policy that did not fit.
    pub(super) overflowed: Option<Made>,
    /// What was written to the store, and the version of the contents that were known then.
    pub(super) published: Option<(CiliumEndpoint, u64)>,
}

/// A subject of the engine and the version of its policy.
pub(super) type Made = (SubjectId, u64);

/// A policy that the kernel enforces. Its entries are in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Realized {
    /// None: closed because the policies do not fit.
    pub(super) made_from: Option<Made>,
    /// Revision of the policies of its last change.
    pub(super) revision: u64,
    pub(super) entries: usize,
    /// What drops packets without an entry, incoming and outgoing; none when they pass.
    pub(super) closed_by: [Option<OriginSet>; 2],
    /// What would drop passes, and is reported as audited.
    pub(super) audit: bool,
}

impl Realized {
    pub(super) fn of(subject: SubjectId, policy: SubjectPolicy<'_>, audit: bool) -> Self {
        Self {
            made_from: Some((subject, policy.version())),
            revision: policy.revision(),
            entries: policy.map().len(),
            closed_by: [policy.closed_by(false), policy.closed_by(true)],
            audit,
        }
    }

    /// Whether packets of the direction without an entry drop.
    pub(super) fn enforces(&self, egress: bool) -> bool {
        self.closed_by[usize::from(egress)].is_some()
    }
}

impl Endpoint {
    pub(super) fn new(file: EndpointFile, state: State) -> Self {
        Self {
            file,
            state,
            conditions: VecDeque::new(),
            labels: LabelSet::empty(),
            ifindex: 0,
            old_programs: false,
            recorded: 0,
            realized: None,
            subject: None,
            subject_of: (LabelSet::empty(), None),
            overflowed: None,
            published: None,
        }
    }

    /// Goes to another state. A step that the life of an endpoint does not have is a mistake of this program: it is
    /// said, and not made.
    pub(super) fn become_state(&mut self, next: State) {
        if self.state == next {
            return;
        }
        if !self.state.may_become(next) {
            tracing::error!(endpoint = self.file.id, from = %self.state, to = %next, "state change refused");
            return;
        }
        tracing::debug!(endpoint = self.file.id, from = %self.state, to = %next, "endpoint state");
        self.state = next;
    }

    /// Adds a condition; the oldest give way.
    pub(super) fn condition(&mut self, text: String) {
        if self.conditions.back() == Some(&text) {
            return;
        }
        tracing::warn!(endpoint = self.file.id, pod = %self.pod(), condition = text, "endpoint is not ready");
        if self.conditions.len() == MAX_CONDITIONS {
            self.conditions.pop_front();
        }
        self.conditions.push_back(text);
    }

    /// Whether packets of the pod pass the programs and its slot is in use.
    pub(super) fn is_attached(&self) -> bool {
        self.ifindex != 0 && !matches!(self.state, State::Disconnecting | State::Disconnected)
    }

    /// `namespace/name` of the pod.
    pub(super) fn pod(&self) -> String {
        format!("{}/{}", self.file.pod_namespace, self.file.pod_name)
    }
}

const MAX_CONDITIONS: usize = 8;
