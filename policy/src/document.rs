//! Splits a YAML stream into documents and reads who they are. Any kind of object; the agent and the sandbox use it too.

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

/// Reads the documents of a stream in order; empty ones are left out. `file` is only for messages.
///
/// A document that is not YAML, or has no `apiVersion` and `kind`, is an error and does not touch the others.
pub fn split_documents(file: &str, yaml: &str) -> Vec<Result<Document, DocumentError>> {
    split_text(yaml)
        .into_iter()
        .filter_map(|(line, text)| read_document(file, line, text).transpose())
        .collect()
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
    let error = |at: u32, field: &str, message: String| DocumentError {
        file: file.to_owned(),
        line: line + at.saturating_sub(1),
        object: String::new(),
        field: field.to_owned(),
        message,
    };
    let root = Node::parse(&text).map_err(|e| error(e.line, "", e.message))?;
    match &root.value {
        Value::Null => return Ok(None),
        Value::Map(_) => {}
        _ => {
            let message = format!("a document must be a map, this is {}", root.kind());
            return Err(error(root.line, "", message));
        }
    }
    let head = |field: &str| match root.get(field).and_then(Node::as_text) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(error(root.line, field, format!("{field} must be given as a string"))),
    };
    let metadata = |field: &str| {
        root.get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Node::as_text)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Some(Document {
        line,
        api_version: head("apiVersion")?,
        kind: head("kind")?,
        namespace: metadata("namespace"),
        name: metadata("name"),
        text,
        root,
    }))
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
