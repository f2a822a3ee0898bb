//! Splits a YAML stream into documents and reads who they are. Any kind of object; the agent and the sandbox use it too.

use serde::de::DeserializeOwned;

use crate::api::DocumentError;
use crate::yaml::{Node, Value};

/// One document of a stream, with the head that every Kubernetes object has.
#[derive(Clone, Debug)]
pub struct Document {
    /// Line of the stream on which [`Self::text`] starts, from 1.
    pub line: u32,
    /// The document without its separators.
    pub text: String,
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, empty when absent.
    pub namespace: String,
    /// `metadata.name`, empty when absent.
    pub name: String,
    pub(crate) root: Node,
}

impl Document {
    /// The document as JSON.
    pub fn json(&self) -> String {
        self.root.to_string()
    }
}

/// Reads the documents of a stream in order; empty ones are left out, and lists (`kind: List` and the lists of a kind)
/// give their items. `file` is only for messages.
///
/// A document that is not YAML, or has no `apiVersion` and `kind`, is an error and does not touch the others.
pub fn split_documents(file: &str, yaml: &str) -> Vec<Result<Document, DocumentError>> {
    let mut documents = Vec::new();
    for (line, text) in split_text(yaml) {
        match read_document(file, line, text) {
            Ok(None) => {}
            Ok(Some(document)) => match document.items() {
                None => documents.push(Ok(document)),
                Some(items) => {
                    documents.extend(items.into_iter().map(|node| of_node(file, document.line, node, None)));
                }
            },
            Err(error) => documents.push(Err(error)),
        }
    }
    documents
}

impl Document {
    /// A document that is a part of a larger one; its lines are those of the larger one.
    ///
    /// # Errors
    /// It has no `apiVersion` and `kind`.
    pub(crate) fn of_node(file: &str, node: Node) -> Result<Self, DocumentError> {
        of_node(file, 1, node, None)
    }

    /// The document as a type. Scalars that are not quoted have the types of YAML 1.1, as Kubernetes' tools read them.
    /// `file` is only for messages.
    ///
    /// # Errors
    /// A field is of another type, or missing.
    pub fn read<T: DeserializeOwned>(&self, file: &str) -> Result<T, DocumentError> {
        T::deserialize(&self.root)
            .map_err(|cause| error(file, self.line, cause.line, &cause.path, cause.message))
    }

    /// Elements of a list of objects.
    fn items(&self) -> Option<Vec<Node>> {
        if !self.kind.ends_with("List") {
            return None;
        }
        match self.root.get("items").map(|items| &items.value) {
            Some(Value::List(items)) => Some(items.clone()),
            _ => None,
        }
    }
}

/// A document with its first line number. `---` and `...` at the start of a line separate documents; YAML allows
/// neither inside a scalar.
fn split_text(yaml: &str) -> Vec<(u32, String)> {
    let mut documents = Vec::new();
    let mut current = (1, String::new());
    for (index, line) in yaml.split_inclusive('\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if let Some(rest) = after_marker(line, "---") {
            let next = (number, format!("   {rest}"));
            documents.push(std::mem::replace(&mut current, next));
        } else if after_marker(line, "...").is_some() {
            let next = (number.saturating_add(1), String::new());
            documents.push(std::mem::replace(&mut current, next));
        } else {
            current.1.push_str(line);
        }
    }
    documents.push(current);
    documents.retain(|(_, text)| has_content(text));
    documents
}

fn after_marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(marker)?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start_matches('\u{feff}').trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    })
}

fn read_document(file: &str, line: u32, text: String) -> Result<Option<Document>, DocumentError> {
    let root = Node::parse(&text).map_err(|e| error(file, line, e.line, "", e.message))?;
    if matches!(root.value, Value::Null) {
        return Ok(None);
    }
    of_node(file, line, root, Some(text)).map(Some)
}

/// `line` is that of the first line of what the node was parsed from.
fn of_node(file: &str, line: u32, root: Node, text: Option<String>) -> Result<Document, DocumentError> {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("a document must be a map, this is {}", root.kind());
        return Err(error(file, line, root.line, "", message));
    }
    let head = |field: &str| match root.get(field).and_then(Node::as_text) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(error(file, line, root.line, field, format!("{field} must be given as a string"))),
    };
    let metadata = |field: &str| {
        root.get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Node::as_text)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Document {
        line,
        api_version: head("apiVersion")?,
        kind: head("kind")?,
        namespace: metadata("namespace"),
        name: metadata("name"),
        text: text.unwrap_or_else(|| format!("{root}\n")),
        root,
    })
}

fn error(file: &str, line: u32, at: u32, field: &str, message: String) -> DocumentError {
    DocumentError {
        file: file.to_owned(),
        line: line.saturating_add(at.saturating_sub(1)),
        object: String::new(),
        field: field.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(yaml: &str) -> Vec<(u32, String)> {
        split_documents("f", yaml)
            .into_iter()
            .map(|document| document.map_or_else(|e| (e.line, e.message), |d| (d.line, d.kind)))
            .collect()
    }

    #[test]
    fn separators_comments_and_empty_documents() {
        let yaml = "# head\n---\napiVersion: v1\nkind: Pod\n---\n---\n# nothing\n--- {apiVersion: v1, kind: Node}\n...\n\
                    apiVersion: v1\nkind: Namespace\ntext: |\n  ---\n  x\n";
        let expect = [(2, "Pod"), (8, "Node"), (10, "Namespace")];
        assert_eq!(kinds(yaml), expect.map(|(line, kind)| (line, kind.to_owned())));
    }

    #[test]
    fn one_bad_document_leaves_the_others() {
        let yaml = "apiVersion: v1\nkind: Pod\n---\nkind: [\n---\n- 1\n---\nkind: Pod\n---\napiVersion: v1\nkind: Node\n";
        let found = kinds(yaml);
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found[0], (1, "Pod".to_owned()));
        assert!(found[2].1.contains("must be a map"), "{found:?}");
        assert!(found[3].1.contains("apiVersion must be given"), "{found:?}");
        assert_eq!(found[4], (9, "Node".to_owned()));
    }

    #[test]
    fn lists_give_their_items() {
        let yaml = "---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- kind: Node\n";
        let mut found = split_documents("f", yaml);
        let error = found.pop().unwrap().unwrap_err();
        assert_eq!((error.line, error.field.as_str()), (8, "apiVersion"));
        let pod = found.pop().unwrap().unwrap();
        assert_eq!((pod.kind.as_str(), pod.name.as_str(), pod.line, found.len()), ("Pod", "a", 1, 0));
        assert!(split_documents("f", &pod.text)[0].as_ref().is_ok_and(|again| again.name == "a"));
    }

    #[test]
    fn text_is_what_was_written() {
        let yaml = "---\napiVersion: v1\nkind: Pod # x\n";
        let document = split_documents("f", yaml).remove(0).unwrap();
        assert_eq!(document.text.trim_start(), "apiVersion: v1\nkind: Pod # x\n");
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "[-a{}\\[\\]:&*!|>'\"#% \n.]{0,80}") {
            split_documents("f", &text);
        }
    }
}
