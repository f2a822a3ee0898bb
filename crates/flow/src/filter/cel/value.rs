//! Values of expressions: borrowed from the flow and the expression as far as possible.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use specola_proto::flow as pb;

use crate::{PolicyOrigin, Workload};

/// A value. A message is one only as an element of a list; others are read by path.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Cow<'a, str>),
    /// Nanoseconds since 1970.
    Time(i64),
    Null,
    List(List<'a>),
    Workload(&'a Workload),
    Policy(&'a PolicyOrigin),
    Header(&'a pb::HttpHeader),
}

/// A list.
#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Texts(&'a [String]),
    Workloads(&'a [Workload]),
    Headers(&'a [pb::HttpHeader]),
    Values(Arc<[Value<'a>]>),
}

/// The values cannot be compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Incomparable;

impl<'a> Value<'a> {
    pub(super) const fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) const fn texts(texts: &'a [String]) -> Self {
        Self::List(List::Texts(texts))
    }

    /// The same value without a copy of its text.
    pub(super) fn borrowed(&'a self) -> Self {
        match self {
            Self::Text(text) => Self::text(text),
            other => other.clone(),
        }
    }

    /// A field of a message that is a list's element.
    pub(super) fn field(&self, name: &str) -> Self {
        match (self, name) {
            (Self::Workload(workload), "name") => Self::text(&workload.name),
            (Self::Workload(workload), "kind") => Self::text(&workload.kind),
            (Self::Policy(policy), "name") => Self::text(&policy.name),
            (Self::Policy(policy), "namespace") => Self::text(&policy.namespace),
            (Self::Policy(policy), "kind") => Self::text(&policy.kind),
            (Self::Policy(policy), "labels") => Self::texts(&policy.labels),
            (Self::Policy(policy), "revision") => Self::Uint(policy.revision),
            (Self::Header(header), "key") => Self::text(&header.key),
            (Self::Header(header), "value") => Self::text(&header.value),
            _ => Self::Null,
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Null, Self::Null) => true,
            (Self::List(one), Self::List(two)) => {
                one.len() == two.len() && (0..one.len()).all(|n| one.is_equal_at(two, n))
            }
            _ => self.compare(other) == Ok(Ordering::Equal),
        }
    }

    pub(super) fn compare(&self, other: &Self) -> Result<Ordering, Incomparable> {
        match (self, other) {
            (Self::Text(one), Self::Text(two)) => Ok(one.cmp(two)),
            (Self::Time(one), Self::Time(two)) => Ok(one.cmp(two)),
            (Self::Bool(one), Self::Bool(two)) => Ok(one.cmp(two)),
            _ => Ok(self.number()?.cmp(&other.number()?)),
        }
    }

    /// Signed and unsigned numbers on one line.
    fn number(&self) -> Result<i128, Incomparable> {
        match self {
            Self::Int(number) => Ok((*number).into()),
            Self::Uint(number) => Ok((*number).into()),
            _ => Err(Incomparable),
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Workloads(workloads) => workloads.len(),
            Self::Headers(headers) => headers.len(),
            Self::Values(values) => values.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'a>> {
        Some(match self {
            Self::Texts(texts) => Value::text(texts.get(index)?),
            Self::Workloads(workloads) => Value::Workload(workloads.get(index)?),
            Self::Headers(headers) => Value::Header(headers.get(index)?),
            Self::Values(values) => values.get(index)?.clone(),
        })
    }

    pub(super) fn contains(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Texts(texts), Value::Text(text)) => texts.iter().any(|own| own == text),
            (Self::Values(values), _) => values.iter().any(|own| own.equals(value)),
            _ => false,
        }
    }

    fn is_equal_at(&self, other: &Self, index: usize) -> bool {
        self.get(index).zip(other.get(index)).is_some_and(|(one, two)| one.equals(&two))
    }
}
