//! Filters: Hubble's `FlowFilter` messages compiled to predicates over compact flows.

mod app;
mod cel;
mod clause;
mod compile;
mod name;
mod node;
mod pattern;
mod peer;

use std::ops::Range;

use specola_proto::flow as pb;

pub use compile::InvalidFilter;

use crate::{FlowUuid, FlowView, InstanceId};
use clause::Clause;

/// A whitelist and a blacklist. A flow passes when a whitelist filter matches (or there is none) and no blacklist
/// filter does.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    whitelist: Vec<Filter>,
    blacklist: Vec<Filter>,
}

impl FilterSet {
    /// Compiles both lists.
    ///
    /// # Errors
    /// A filter cannot be compiled; the error names it and the field.
    pub fn compile(
        whitelist: &[pb::FlowFilter],
        blacklist: &[pb::FlowFilter],
    ) -> Result<Self, InvalidFilter> {
        Ok(Self {
            whitelist: compile_list("whitelist", whitelist)?,
            blacklist: compile_list("blacklist", blacklist)?,
        })
    }

    /// Whether every flow passes.
    pub const fn is_empty(&self) -> bool {
        self.whitelist.is_empty() && self.blacklist.is_empty()
    }

    /// Sequence numbers outside of which no flow of this agent run can pass, when the whitelist asks for ids only.
    pub fn sequence_range(&self, instance: InstanceId) -> Option<Range<u64>> {
        let asked: Option<Vec<&[FlowUuid]>> = self.whitelist.iter().map(Filter::uuids).collect();
        let own = asked.filter(|lists| !lists.is_empty())?.concat().into_iter();
        let sequences: Vec<u64> = own.filter(|id| id.instance == instance).map(|id| id.seq).collect();
        let (first, last) = (sequences.iter().min(), sequences.iter().max());
        Some(first.zip(last).map_or(0..0, |(first, last)| *first..last.saturating_add(1)))
    }

    /// Whether the flow passes.
    pub fn passes(&self, view: &FlowView<'_>) -> bool {
        let is_wanted = self.whitelist.is_empty() || self.whitelist.iter().any(|filter| filter.matches(view));
        is_wanted && !self.blacklist.iter().any(|filter| filter.matches(view))
    }
}

/// One compiled filter: all its clauses must match. Without clauses it matches everything.
#[derive(Clone, Debug)]
struct Filter {
    /// Cheap and selective ones first.
    clauses: Vec<Clause>,
}

impl Filter {
    /// The ids that it asks for, when it does.
    fn uuids(&self) -> Option<&[FlowUuid]> {
        self.clauses.iter().find_map(|clause| match clause {
            Clause::Uuid(ids) => Some(ids.as_slice()),
            _ => None,
        })
    }

    fn matches(&self, view: &FlowView<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(view))
    }
}

/// Filters that a list may have: each costs time for every flow.
const MAX_FILTERS: usize = 256;
/// Regular expressions and CEL expressions that a filter may have.
const MAX_PATTERNS: usize = 32;

fn compile_list(list: &'static str, filters: &[pb::FlowFilter]) -> Result<Vec<Filter>, InvalidFilter> {
    let compile_one = |(index, filter)| {
        if index >= MAX_FILTERS {
            return Err(compile::too_many().at(list, index));
        }
        let clauses = compile::clauses(filter).map_err(|fault| fault.at(list, index))?;
        Ok(Filter { clauses })
    };
    filters.iter().enumerate().map(compile_one).collect()
}

#[cfg(test)]
mod tests;
