//! Evaluation. Types were checked before; what may still fail is arithmetic, an index, null, and the bounds.

use std::{cmp::Ordering, sync::Arc};

use regex::Regex;

use super::{
    fields::{Getter, Presence},
    value::{List, Value},
};
use crate::FlowView;

/// An operation.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Const(Value<'static>),
    Field(Getter),
    Present(Presence),
    /// Whether a value differs from its type's default.
    IsSet(Box<Self>),
    /// Variable of an enclosing comprehension, counted from the outermost one.
    Variable(usize),
    Member(Box<Self>, String),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    If(Box<(Self, Self, Self)>),
    Equal(Box<(Self, Self)>),
    Order(Box<(Self, Self)>, fn(Ordering) -> bool),
    Calculate(Arithmetic, Box<(Self, Self)>),
    In(Box<(Self, Self)>),
    Index(Box<(Self, Self)>),
    Text(TextTest, Box<(Self, Self)>),
    Matches(Box<Self>, Regex),
    Size(Box<Self>),
    ToText(Box<Self>),
    ToInt(Box<Self>),
    ToUint(Box<Self>),
    List(Vec<Self>),
    Each(Each, Box<(Self, Self)>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// What a comprehension makes of the answers for each element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Each {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

/// Why there is no result: then the flow does not match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Failure;

type Outcome<'a> = Result<Value<'a>, Failure>;

/// Operations that one evaluation may take; what is read and written counts in pieces of [`PIECE`] bytes.
const MAX_STEPS: usize = 5_000;
const PIECE: usize = 64;

/// Whether the result is true.
pub(super) fn is_true(root: &Node, view: &FlowView<'_>) -> bool {
    let mut machine = Machine { view: *view, steps: 0, variables: Vec::new() };
    matches!(machine.eval(root), Ok(Value::Bool(true)))
}

struct Machine<'a> {
    view: FlowView<'a>,
    steps: usize,
    variables: Vec<Value<'a>>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, cost: usize) -> Result<(), Failure> {
        self.steps += cost;
        if self.steps > MAX_STEPS { Err(Failure) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        self.step(1)?;
        match node {
            Node::Const(value) => Ok(value.borrowed()),
            Node::Field(getter) => Ok(getter(&self.view)),
            Node::Present(presence) => Ok(Value::Bool(presence(&self.view))),
            Node::IsSet(inner) => Ok(Value::Bool(is_set(&self.eval(inner)?))),
            Node::Variable(index) => self.variables.get(*index).cloned().ok_or(Failure),
            Node::Member(inner, name) => self.member(inner, name),
            Node::Not(inner) => Ok(Value::Bool(!self.bool(inner)?)),
            Node::Negate(inner) => match self.eval(inner)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(Failure),
                _ => Err(Failure),
            },
            Node::And(one, two) => self.logic(one, two, false),
            Node::Or(one, two) => self.logic(one, two, true),
            Node::If(parts) => {
                let (condition, yes, no) = parts.as_ref();
                if self.bool(condition)? { self.eval(yes) } else { self.eval(no) }
            }
            Node::Equal(pair) => {
                let (one, two) = self.pair(pair)?;
                Ok(Value::Bool(one.equals(&two)))
            }
            Node::Order(pair, accept) => {
                let (one, two) = self.pair(pair)?;
                Ok(Value::Bool(accept(one.compare(&two).map_err(|_incomparable| Failure)?)))
            }
            Node::Calculate(operation, pair) => {
                let (one, two) = self.pair(pair)?;
                self.calculate(*operation, one, two)
            }
            Node::In(pair) => match self.pair(pair)? {
                (value, Value::List(list)) => {
                    self.step(list.len())?;
                    Ok(Value::Bool(list.contains(&value)))
                }
                _ => Err(Failure),
            },
            Node::Index(pair) => match self.pair(pair)? {
                (Value::List(list), Value::Int(index)) => {
                    usize::try_from(index).ok().and_then(|index| list.get(index)).ok_or(Failure)
                }
                _ => Err(Failure),
            },
            _ => self.eval_function(node),
        }
    }

    fn eval_function(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Text(test, pair) => match self.pair(pair)? {
                (Value::Text(text), Value::Text(part)) => {
                    self.step(text.len() / PIECE)?;
                    Ok(Value::Bool(match test {
                        TextTest::StartsWith => text.starts_with(part.as_ref()),
                        TextTest::EndsWith => text.ends_with(part.as_ref()),
                        TextTest::Contains => text.contains(part.as_ref()),
                    }))
                }
                _ => Err(Failure),
            },
            Node::Matches(inner, pattern) => match self.eval(inner)? {
                Value::Text(text) => {
                    self.step(text.len() / PIECE)?;
                    Ok(Value::Bool(pattern.is_match(&text)))
                }
                _ => Err(Failure),
            },
            Node::Size(inner) => match self.eval(inner)? {
                Value::Text(text) => Ok(count(text.chars().count())),
                Value::List(list) => Ok(count(list.len())),
                _ => Err(Failure),
            },
            Node::ToText(inner) => match self.eval(inner)? {
                Value::Int(number) => Ok(Value::Text(number.to_string().into())),
                Value::Uint(number) => Ok(Value::Text(number.to_string().into())),
                Value::Bool(value) => Ok(Value::text(if value { "true" } else { "false" })),
                text @ Value::Text(_) => Ok(text),
                _ => Err(Failure),
            },
            Node::ToInt(inner) => match self.eval(inner)? {
                number @ Value::Int(_) => Ok(number),
                Value::Uint(number) => i64::try_from(number).map(Value::Int).map_err(|_too_large| Failure),
                Value::Text(text) => text.parse().map(Value::Int).map_err(|_no_number| Failure),
                _ => Err(Failure),
            },
            Node::ToUint(inner) => match self.eval(inner)? {
                number @ Value::Uint(_) => Ok(number),
                Value::Int(number) => u64::try_from(number).map(Value::Uint).map_err(|_negative| Failure),
                Value::Text(text) => text.parse().map(Value::Uint).map_err(|_no_number| Failure),
                _ => Err(Failure),
            },
            Node::List(elements) => {
                let values: Result<Vec<_>, _> = elements.iter().map(|element| self.eval(element)).collect();
                Ok(Value::List(List::Values(values?.into())))
            }
            Node::Each(each, parts) => match self.eval(&parts.0)? {
                Value::List(list) => self.each(*each, &list, &parts.1),
                _ => Err(Failure),
            },
            _ => Err(Failure),
        }
    }

    fn bool(&mut self, node: &'a Node) -> Result<bool, Failure> {
        match self.eval(node)? {
            Value::Bool(value) => Ok(value),
            _ => Err(Failure),
        }
    }

    fn pair(&mut self, pair: &'a (Node, Node)) -> Result<(Value<'a>, Value<'a>), Failure> {
        Ok((self.eval(&pair.0)?, self.eval(&pair.1)?))
    }

    fn member(&mut self, inner: &'a Node, name: &str) -> Outcome<'a> {
        Ok(self.eval(inner)?.field(name))
    }

    /// `&&` and `||`: either side decides, whatever becomes of the other.
    fn logic(&mut self, one: &'a Node, two: &'a Node, decisive: bool) -> Outcome<'a> {
        match self.bool(one) {
            Ok(value) if value == decisive => Ok(Value::Bool(decisive)),
            Ok(_) => Ok(Value::Bool(self.bool(two)?)),
            Err(failure) => match self.bool(two) {
                Ok(value) if value == decisive => Ok(Value::Bool(decisive)),
                _ => Err(failure),
            },
        }
    }

    fn calculate(&mut self, operation: Arithmetic, one: Value<'a>, two: Value<'a>) -> Outcome<'a> {
        match (one, two) {
            (Value::Int(one), Value::Int(two)) => match operation {
                Arithmetic::Add => one.checked_add(two),
                Arithmetic::Subtract => one.checked_sub(two),
                Arithmetic::Multiply => one.checked_mul(two),
                Arithmetic::Divide => one.checked_div(two),
                Arithmetic::Remainder => one.checked_rem(two),
            }
            .map(Value::Int)
            .ok_or(Failure),
            (Value::Uint(one), Value::Uint(two)) => match operation {
                Arithmetic::Add => one.checked_add(two),
                Arithmetic::Subtract => one.checked_sub(two),
                Arithmetic::Multiply => one.checked_mul(two),
                Arithmetic::Divide => one.checked_div(two),
                Arithmetic::Remainder => one.checked_rem(two),
            }
            .map(Value::Uint)
            .ok_or(Failure),
            (Value::Text(one), Value::Text(two)) if operation == Arithmetic::Add => {
                self.step((one.len() + two.len()) / PIECE)?;
                Ok(Value::Text(one + two))
            }
            _ => Err(Failure),
        }
    }

    fn each(&mut self, each: Each, list: &List<'a>, body: &'a Node) -> Outcome<'a> {
        let (mut hits, mut failed, mut kept) = (0, false, Vec::new());
        for element in (0..list.len()).filter_map(|index| list.get(index)) {
            self.variables.push(element.clone());
            let answer = self.eval(body);
            self.variables.pop();
            match (each, answer) {
                (Each::Map, Ok(value)) => kept.push(value),
                (Each::Exists, Ok(Value::Bool(true))) => return Ok(Value::Bool(true)),
                (Each::All, Ok(Value::Bool(false))) => return Ok(Value::Bool(false)),
                (Each::Filter, Ok(Value::Bool(true))) => kept.push(element),
                (_, Ok(Value::Bool(answer))) => hits += usize::from(answer),
                // Another element may still decide these two.
                (Each::Exists | Each::All, Err(_)) if self.steps <= MAX_STEPS => failed = true,
                _ => return Err(Failure),
            }
        }
        match each {
            _ if failed => Err(Failure),
            Each::Exists => Ok(Value::Bool(false)),
            Each::All => Ok(Value::Bool(true)),
            Each::ExistsOne => Ok(Value::Bool(hits == 1)),
            Each::Filter | Each::Map => Ok(Value::List(List::Values(Arc::from(kept)))),
        }
    }
}

fn is_set(value: &Value<'_>) -> bool {
    match value {
        Value::Bool(value) => *value,
        Value::Int(number) | Value::Time(number) => *number != 0,
        Value::Uint(number) => *number != 0,
        Value::Text(text) => !text.is_empty(),
        Value::List(list) => list.len() > 0,
        Value::Null => false,
        Value::Workload(_) | Value::Policy(_) | Value::Header(_) => true,
    }
}

fn count<'a>(length: usize) -> Value<'a> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}
