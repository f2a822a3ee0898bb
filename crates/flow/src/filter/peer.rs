//! Conditions on who is on one side of a flow. What is known of an endpoint never changes, so the answer for it is
//! remembered.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use specola_labels::{LabelSet, Selector};

use super::pattern::PodPattern;
use crate::{EndpointMeta, FlowView, MetaHandle, Side, Workload};

/// A condition with the answers that it gave.
#[derive(Debug)]
pub(super) struct PeerClause {
    side: Side,
    test: PeerTest,
    answers: Answers,
}

/// What is asked; matches when one of the values does.
#[derive(Clone, Debug)]
pub(super) enum PeerTest {
    Pod(Vec<PodPattern>),
    Workload(Vec<Workload>),
    Cluster(Vec<String>),
    Labels(Vec<Selector>),
}

impl PeerClause {
    pub(super) fn new(side: Side, test: PeerTest) -> Self {
        Self { side, test, answers: Answers::new() }
    }

    pub(super) fn matches(&self, view: &FlowView<'_>) -> bool {
        let handle = match self.side {
            Side::Source => view.flow.source_meta,
            Side::Destination => view.flow.destination_meta,
        };
        let answer = || self.test.matches(view.meta(self.side));
        if handle == MetaHandle::NONE { answer() } else { self.answers.get_or(handle, answer) }
    }
}

impl Clone for PeerClause {
    fn clone(&self) -> Self {
        Self::new(self.side, self.test.clone())
    }
}

impl PeerTest {
    fn matches(&self, meta: Option<&EndpointMeta>) -> bool {
        let Some(meta) = meta else {
            // Nobody has no labels, and some selectors ask for that.
            return matches!(self, Self::Labels(wanted) if wanted.iter().any(|s| s.matches(&LabelSet::empty())));
        };
        match self {
            Self::Pod(patterns) => {
                patterns.iter().any(|pattern| pattern.matches(&meta.namespace, &meta.pod_name))
            }
            Self::Workload(wanted) => {
                meta.workloads.iter().any(|own| wanted.iter().any(|w| workload_matches(w, own)))
            }
            Self::Cluster(names) => names.contains(&meta.cluster_name),
            Self::Labels(selectors) => selectors.iter().any(|selector| selector.matches(&meta.labels)),
        }
    }
}

/// An empty name or kind in the filter is any.
fn workload_matches(wanted: &Workload, own: &Workload) -> bool {
    (wanted.name.is_empty() || wanted.name == own.name) && (wanted.kind.is_empty() || wanted.kind == own.kind)
}

/// Answers by handle. A place holds the handle that used it last; handles of one table only may be asked for.
#[derive(Debug)]
struct Answers(Box<[AtomicU32; PLACES]>);

/// Enough for the endpoints that a node talks to most; others are asked again.
const PLACES: usize = 512;

impl Answers {
    fn new() -> Self {
        Self(Box::new([const { AtomicU32::new(0) }; PLACES]))
    }

    fn get_or(&self, handle: MetaHandle, answer: impl FnOnce() -> bool) -> bool {
        // Tables have far fewer than 2^31 entries; a larger number is never remembered.
        let key = handle.get();
        let Some(place) = self.0.get(key as usize % PLACES).filter(|_| key >> 31 == 0) else {
            return answer();
        };
        let held = place.load(Relaxed);
        if held >> 1 == key {
            return held & 1 == 1;
        }
        let answer = answer();
        place.store(key << 1 | u32::from(answer), Relaxed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::MetaInterner;

    #[test]
    fn an_answer_is_made_once_while_its_place_is_kept() {
        let mut interner = MetaInterner::new();
        let mut handle = |n: usize| {
            interner.intern(EndpointMeta { pod_name: n.to_string(), ..EndpointMeta::default() }).unwrap()
        };
        let handles: Vec<_> = (0..=PLACES).map(&mut handle).collect();
        let answers = Answers::new();
        let made = Cell::new(0);
        let ask = |handle, answer| {
            answers.get_or(handle, || {
                made.set(made.get() + 1);
                answer
            })
        };
        for (handle, answer, expected, times) in [
            (handles[0], true, true, 1),
            (handles[0], false, true, 1),
            (handles[1], false, false, 2),
            (handles[1], true, false, 2),
            // Shares a place with the first.
            (handles[PLACES], false, false, 3),
            (handles[0], true, true, 4),
        ] {
            assert_eq!((ask(handle, answer), made.get()), (expected, times));
        }
    }
}
