//! The lines of a rule in the document that it was read from.

use crate::origin::{Origin, Section};
use crate::rule::PolicyObject;
use crate::yaml::{Node, Value};

/// Where a rule is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// File that the object was read from.
    pub file: String,
    /// First line in the file, from 1.
    pub first: u32,
    /// Last line.
    pub last: u32,
    /// The lines as they are written.
    pub text: String,
}

/// Finds the lines of a rule, or, for a rule that decides by selecting the endpoint, those of its selector.
/// `root` is the object's document.
pub(super) fn place_of(
    object: &PolicyObject,
    root: &Node,
    origin: &Origin,
    by_selection: bool,
) -> Option<Place> {
    let (first, last) = if by_selection {
        selector_lines(root, origin.rule_index)?
    } else {
        let entry = entry(root, origin.section, origin.rule_index)?;
        (entry.line, last_line(entry))
    };
    let lines = object.text.lines().enumerate();
    let within = lines.filter(|(index, _)| (first..=last).contains(&u32::try_from(index + 1).unwrap_or(0)));
    let text = within.map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let shift = object.line.saturating_sub(1);
    Some(Place { file: object.file.clone(), first: first + shift, last: last + shift, text })
}

/// The rules of an object, `spec` first.
pub(super) fn specs(root: &Node) -> impl Iterator<Item = &Node> {
    let list = match root.get("specs").map(|node| &node.value) {
        Some(Value::List(specs)) => specs.as_slice(),
        _ => &[],
    };
    root.get("spec").into_iter().chain(list)
}

/// An entry, counted through the section of all rules.
fn entry(root: &Node, section: Section, index: u32) -> Option<&Node> {
    let entries = specs(root).filter_map(|spec| match &spec.get(section.as_str())?.value {
        Value::List(entries) => Some(entries),
        _ => None,
    });
    entries.flatten().nth(index as usize)
}

fn selector_lines(root: &Node, index: u32) -> Option<(u32, u32)> {
    let spec = specs(root).nth(index as usize)?;
    let Value::Map(fields) = &spec.value else { return None };
    let selectors = ["endpointSelector", "nodeSelector", "podSelector", "subject"];
    let (name, node) = fields.iter().find(|(name, _)| selectors.contains(&name.text.as_str()))?;
    Some((name.line, last_line(node).max(name.line)))
}

/// The last line on which some part of the node starts.
fn last_line(node: &Node) -> u32 {
    let parts: u32 = match &node.value {
        Value::List(nodes) => nodes.iter().map(last_line).max().unwrap_or(0),
        Value::Map(fields) => {
            fields.iter().map(|(name, node)| name.line.max(last_line(node))).max().unwrap_or(0)
        }
        _ => 0,
    };
    node.line.max(parts)
}
