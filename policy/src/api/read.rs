//! Reads fields of a document and records every problem with its path and line.

use std::collections::BTreeMap;

use super::DocumentError;
use crate::document::Document;
use crate::yaml::{Node, Value};

/// Problems of one document.
#[derive(Debug)]
pub(super) struct Problems {
    file: String,
    base_line: u32,
    object: String,
    pub(super) errors: Vec<DocumentError>,
    pub(super) warnings: Vec<DocumentError>,
}

/// A node with its path.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    path: String,
}

/// Fields of a map, with a note of those that were read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    at: At<'a>,
    fields: &'a [(crate::yaml::Name, Node)],
    read: Vec<&'static str>,
}

impl Problems {
    pub(super) fn new(file: &str, document: &Document) -> Self {
        let object = if document.namespace.is_empty() {
            document.name.clone()
        } else {
            format!("{}/{}", document.namespace, document.name)
        };
        Self {
            file: file.to_owned(),
            base_line: document.line,
            object: format!("{} {object}", document.kind),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, at: &At<'_>, message: impl Into<String>) {
        let error = self.problem(at.node.line, at.path.clone(), message.into());
        self.errors.push(error);
    }

    pub(super) fn warning(&mut self, at: &At<'_>, message: impl Into<String>) {
        let warning = self.problem(at.node.line, at.path.clone(), message.into());
        self.warnings.push(warning);
    }

    fn problem(&self, line: u32, field: String, message: String) -> DocumentError {
        DocumentError {
            file: self.file.clone(),
            line: self.base_line + line.saturating_sub(1),
            object: self.object.clone(),
            field,
            message,
        }
    }
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node, path: String::new() }
    }

    /// The same node under a field name that is not in the document.
    pub(super) fn named(&self, path: &str) -> Self {
        Self { node: self.node, path: path.to_owned() }
    }

    /// A field of the node, or the node itself under that path.
    pub(super) fn child(&self, name: &str) -> Self {
        Self { node: self.node.get(name).unwrap_or(self.node), path: join(&self.path, name) }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reads a map whose field names are known.
    pub(super) fn fields(&self, problems: &mut Problems) -> Option<Fields<'a>> {
        let Value::Map(fields) = &self.node.value else {
            self.wrong_type("a map", problems);
            return None;
        };
        Some(Fields { at: self.clone(), fields, read: Vec::new() })
    }

    /// Reads a list.
    pub(super) fn list(&self, problems: &mut Problems) -> Vec<Self> {
        let Value::List(nodes) = &self.node.value else {
            self.wrong_type("a list", problems);
            return Vec::new();
        };
        let element = |(index, node)| Self { node, path: format!("{}[{index}]", self.path) };
        nodes.iter().enumerate().map(element).collect()
    }

    /// Reads a list of strings.
    pub(super) fn texts(&self, problems: &mut Problems) -> Vec<&'a str> {
        let elements = self.list(problems);
        elements.iter().filter_map(|element| element.text(problems)).collect()
    }

    /// Reads a map of strings.
    pub(super) fn text_map(&self, problems: &mut Problems) -> BTreeMap<String, String> {
        let Value::Map(fields) = &self.node.value else {
            self.wrong_type("a map", problems);
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        for (name, node) in fields {
            let at = At { node, path: join(&self.path, &name.text) };
            if let Some(text) = at.text(problems) {
                map.insert(name.text.clone(), text.to_owned());
            }
        }
        map
    }

    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Integer(_) | Value::Number(_) => {
                let message = format!("must be a string, this is {}; put it in quotes", self.node.kind());
                problems.error(self, message);
                None
            }
            _ => {
                self.wrong_type("a string", problems);
                None
            }
        }
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        if let Value::Bool(value) = self.node.value {
            return Some(value);
        }
        self.wrong_type("true or false", problems);
        None
    }

    /// Reads an integer of `min..=max`.
    pub(super) fn integer(&self, min: i64, max: i64, problems: &mut Problems) -> Option<i64> {
        match self.node.value {
            Value::Integer(value) if (min..=max).contains(&value) => Some(value),
            Value::Integer(value) => {
                problems.error(self, format!("{value} is not in {min} to {max}"));
                None
            }
            _ => {
                self.wrong_type("an integer", problems);
                None
            }
        }
    }

    fn wrong_type(&self, wanted: &str, problems: &mut Problems) {
        problems.error(self, format!("must be {wanted}, this is {}", self.node.kind()));
    }
}

impl<'a> Fields<'a> {
    pub(super) fn at(&self) -> &At<'a> {
        &self.at
    }

    /// A field; null counts as absent.
    pub(super) fn get(&mut self, name: &'static str) -> Option<At<'a>> {
        self.read.push(name);
        let (_, node) = self.fields.iter().find(|(field, _)| field.text == name)?;
        if matches!(node.value, Value::Null) {
            return None;
        }
        Some(At { node, path: join(&self.at.path, name) })
    }

    /// A string field.
    pub(super) fn text(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'a str> {
        self.get(name)?.text(problems)
    }

    /// Elements of a list field, none when it is absent.
    pub(super) fn list(&mut self, name: &'static str, problems: &mut Problems) -> Option<Vec<At<'a>>> {
        self.get(name).map(|at| at.list(problems))
    }

    /// Notes fields that may be there and mean nothing here.
    pub(super) fn ignore(&mut self, names: &[&'static str]) {
        self.read.extend(names);
    }

    /// Records every field that nobody read.
    pub(super) fn finish(self, problems: &mut Problems) {
        for (name, node) in self.fields {
            if self.read.contains(&name.text.as_str()) {
                continue;
            }
            let at = At { node, path: join(&self.at.path, &name.text) };
            let mut error = problems.problem(name.line, at.path, unknown_field(&self.read));
            error.line = error.line.max(problems.base_line);
            problems.errors.push(error);
        }
    }
}

fn unknown_field(known: &[&str]) -> String {
    let mut known: Vec<&str> = known.to_vec();
    known.sort_unstable();
    known.dedup();
    format!("unknown field; known here: {}", known.join(", "))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}.{name}")
}
