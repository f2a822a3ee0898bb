//! Splits a YAML file into Kubernetes objects and writes them out again.

use std::fmt;

use serde_json::{Map, Value};
use specola_policy::document::split_documents;
use specola_policy::{ParseOptions, parse_policies_with};

use super::Problem;

/// One Kubernetes object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub kind: String,
    /// `None` where the kind has none; "default" where the object could have one and names none.
    pub namespace: Option<String>,
    pub name: String,
    /// Where it begins in its file, from 1.
    pub line: usize,
    pub(crate) value: Value,
    /// As it stands in the file; `None` once something was filled in.
    text: Option<String>,
}

impl Object {
    /// Makes an object that no file has.
    pub(crate) fn made(value: Value) -> Self {
        Self::from_value(value, 1, None).expect("the caller gives kind and name")
    }

    /// File name under which the agents find it: kind, namespace and name, which no two objects share.
    pub(crate) fn file_name(&self) -> String {
        file_name(&self.kind, self.namespace.as_deref(), &self.name)
    }

    /// The object as YAML: the text of the file where nothing was filled in.
    ///
    /// # Errors
    /// When the object cannot be written as YAML.
    pub(crate) fn yaml(&self) -> anyhow::Result<String> {
        match &self.text {
            Some(text) => Ok(text.clone()),
            None => Ok(serde_saphyr::to_string(&self.value)?),
        }
    }

    /// The string at a JSON pointer.
    pub(crate) fn text_at(&self, pointer: &str) -> Option<&str> {
        self.value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    /// Sets the field at `path`, making the maps on the way.
    pub(crate) fn set(&mut self, path: &[&str], value: Value) {
        let mut place = &mut self.value;
        for key in path {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[*key];
        }
        *place = value;
        self.text = None;
    }

    fn from_value(value: Value, line: usize, text: Option<String>) -> Result<Self, String> {
        let string =
            |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        let kind = string("/kind")
            .ok_or("kind: missing or no text, every document must be a Kubernetes object")?
            .to_owned();
        let name = string("/metadata/name")
            .ok_or_else(|| format!("{kind}: metadata.name: missing or no text"))?
            .to_owned();
        if !is_file_safe(&kind) || !is_file_safe(&name) {
            return Err(format!(
                "{kind} {name}: kind and metadata.name may not hold \"/\" or begin with \".\""
            ));
        }
        let namespace = if CLUSTER_WIDE.contains(&kind.as_str()) {
            None
        } else {
            Some(string("/metadata/namespace").unwrap_or("default").to_owned())
        };
        if namespace.as_deref().is_some_and(|namespace| !is_file_safe(namespace)) {
            return Err(format!("{kind} {name}: metadata.namespace: not a DNS label"));
        }
        Ok(Self { kind, namespace, name, line, value, text })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The name of an object's file in the desired directory.
pub(crate) fn file_name(kind: &str, namespace: Option<&str>, name: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match namespace {
        Some(namespace) => format!("{kind}_{namespace}_{name}.yaml"),
        None => format!("{kind}_{name}.yaml"),
    }
}

/// Kinds that have no namespace.
pub(crate) const CLUSTER_WIDE: [&str; 11] = [
    "Node",
    "Namespace",
    "CiliumClusterwideNetworkPolicy",
    "CiliumCIDRGroup",
    "FQDNCache",
    "ProviderGroup",
    "CiliumNode",
    "CiliumIdentity",
    "ClusterNetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
];

/// Reads every object of a file; what is wrong goes to `problems`, policies that no agent would take included.
pub(super) fn read(
    file: &str,
    text: &str,
    language: ParseOptions,
    problems: &mut Vec<Problem>,
) -> Vec<Object> {
    for error in parse_policies_with(file, text, language).errors {
        let parts = [error.object, error.field, error.message].into_iter().filter(|part| !part.is_empty());
        problems.push(Problem { line: error.line as usize, text: parts.collect::<Vec<_>>().join(": ") });
    }
    let mut objects = Vec::new();
    // Documents that are no YAML are among the errors above.
    for document in split_documents(file, text).into_iter().flatten() {
        let line = document.line as usize;
        let read = document
            .read::<Value>(file)
            .map_err(|error| error.to_string())
            .and_then(|value| Object::from_value(value, line, Some(document.text)));
        match read {
            Ok(object) => objects.push(object),
            Err(text) => problems.push(Problem { line, text }),
        }
    }
    objects
}

fn is_file_safe(text: &str) -> bool {
    text.len() <= 100
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines_and_their_text() {
        let text = "# head\n---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\n# nothing\n---\napiVersion: v1\n\
                    kind: B\nmetadata:\n  name: b\n";
        let mut problems = Vec::new();
        let objects = read("f", text, ParseOptions::default(), &mut problems);
        let seen: Vec<_> = objects.iter().map(|object| (object.to_string(), object.line)).collect();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(seen, [("A default/a".to_owned(), 2), ("B default/b".to_owned(), 8)]);
        assert_eq!(objects[1].yaml().expect("yaml").trim(), "apiVersion: v1\nkind: B\nmetadata:\n  name: b");
    }

    #[test]
    fn a_list_gives_its_items() {
        let mut problems = Vec::new();
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: n1}\n\
                    - apiVersion: v1\n  kind: Pod\n  metadata: {name: 'y'}\n";
        let objects = read("f", text, ParseOptions::default(), &mut problems);
        assert_eq!(objects.iter().map(Object::to_string).collect::<Vec<_>>(), ["Node n1", "Pod default/y"]);
        let again = read("f", &objects[1].yaml().expect("yaml"), ParseOptions::default(), &mut problems);
        assert_eq!(again[0].value, objects[1].value);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn wrong_documents_are_told_by_line() {
        let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  \
                      endpointSelector: {}\n  ingress:\n  - fromCIDR: [nonsense]\n";
        for (text, line, cause) in [
            ("apiVersion: v1\nkind: A\nmetadata: {name: a}\n---\na: [\n", 5, ""),
            ("\n\nmetadata: {name: x}\n", 3, "apiVersion"),
            ("apiVersion: v1\nkind: Pod\n", 1, "metadata.name: missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: ../../etc}\n", 1, "may not hold"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: a/b}\n", 1, "metadata.namespace"),
            ("just text\n", 1, "map"),
            (policy, 7, "spec.ingress[0].fromCIDR[0]"),
        ] {
            let mut problems = Vec::new();
            read("f", text, ParseOptions::default(), &mut problems);
            let found = problems.iter().find(|problem| problem.text.contains(cause));
            let problem = found.unwrap_or_else(|| panic!("{text:?} gave {problems:?}"));
            assert!(problem.line >= line, "{text:?} gave {problem:?}");
        }
    }
}
