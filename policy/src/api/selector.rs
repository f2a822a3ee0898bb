//! Kubernetes label selectors.

use std::collections::BTreeSet;

use specola_labels::{Requirement, Selector, SelectorKey};

use super::read::{At, Problems};

/// Reads `matchLabels` and `matchExpressions`; `key` gives the selector key of a written key.
pub(super) fn read_selector(
    at: &At<'_>,
    key: impl Fn(&str) -> Result<SelectorKey, specola_labels::InvalidSelector>,
    problems: &mut Problems,
) -> Option<Selector> {
    let mut fields = at.fields(problems)?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.get("matchLabels") {
        for (name, value) in labels.text_map(problems) {
            match key(&name) {
                Ok(_) if !is_label_key(&name) => {
                    problems.error(&labels, format!("invalid label selector: \"{name}\" {LABEL_KEY}"));
                }
                Ok(key) if is_label_value(&value) => {
                    requirements.push(Requirement::equals(key, &value));
                }
                Ok(_) => problems.error(
                    &labels.named(&format!("{}.{name}", labels.path())),
                    format!("invalid label selector: \"{value}\" is not a label value {LABEL_VALUE}"),
                ),
                Err(error) => problems.error(&labels, format!("invalid label selector: {error}")),
            }
        }
    }
    for expression in fields.list("matchExpressions", problems).unwrap_or_default() {
        requirements.extend(read_expression(&expression, &key, problems));
    }
    fields.finish(problems);
    Some(Selector::new(requirements))
}

fn read_expression(
    at: &At<'_>,
    key: &impl Fn(&str) -> Result<SelectorKey, specola_labels::InvalidSelector>,
    problems: &mut Problems,
) -> Option<Requirement> {
    let mut fields = at.fields(problems)?;
    let name = fields.text("key", problems).unwrap_or_default();
    let operator = fields.text("operator", problems).unwrap_or_default();
    let values: BTreeSet<String> = fields
        .get("values")
        .map(|values| values.texts(problems))
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect();
    fields.finish(problems);
    if let Some(bad) = values.iter().find(|value| !is_label_value(value)) {
        let message = format!("invalid label selector: \"{bad}\" is not a label value {LABEL_VALUE}");
        problems.error(at, message);
        return None;
    }
    if !name.is_empty() && !is_label_key(name) {
        problems.error(at, format!("invalid label selector: \"{name}\" {LABEL_KEY}"));
        return None;
    }
    match key(name).and_then(|key| Requirement::from_expression(key, operator, values)) {
        Ok(requirement) => Some(requirement),
        Err(error) => {
            problems.error(at, format!("invalid label selector: {error}"));
            None
        }
    }
}

/// Label keys, with a source before them, or a prefix of addresses.
fn is_label_key(key: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '$');
    key.len() <= MAX_KEY && key.chars().all(allowed)
}

fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63 && value.chars().all(inner) && ends(value.chars().next()) && ends(value.chars().last())
}

/// Longest prefix and name of a Kubernetes label key, and a source before it.
const MAX_KEY: usize = 253 + 1 + 63 + 32;
const LABEL_KEY: &str =
    "is not a label key (letters, digits, '-', '_', '.' and one '/'; a source such as k8s: before it)";
const LABEL_VALUE: &str = "(at most 63 letters, digits, '-', '_' or '.', first and last a letter or digit)";
