//! The small languages inside filter values: pods, label selectors.

use specola_labels::{InvalidSelector, Operator, Requirement, Selector, SelectorKey};

/// `pod`, `namespace/pod`, `namespace/`, `/pod` or `/`; pod names are prefixes.
#[derive(Clone, Debug)]
pub(super) struct PodPattern {
    /// `None` = any.
    namespace: Option<String>,
    prefix: String,
}

impl PodPattern {
    /// `None` when the text is empty.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let (namespace, prefix) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Some(Self { namespace, prefix: prefix.to_owned() })
    }

    pub(super) fn matches(&self, namespace: &str, pod: &str) -> bool {
        if namespace.is_empty() && pod.is_empty() {
            return false;
        }
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace) && pod.starts_with(&self.prefix)
    }
}

/// Namespace of a pod pattern without a slash.
const DEFAULT_NAMESPACE: &str = "default";

/// Why a text is not a label selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum InvalidLabels {
    #[error("unclosed parenthesis in \"{0}\"")]
    Parenthesis(String),
    #[error(
        "\"{0}\" is no requirement: write key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)"
    )]
    Requirement(String),
    #[error(transparent)]
    Selector(#[from] InvalidSelector),
}

/// Reads a Kubernetes label selector: requirements separated by commas, all of which must hold. Keys may begin with
/// the label's source (`k8s:app`); without it any source will do.
pub(super) fn label_selector(text: &str) -> Result<Selector, InvalidLabels> {
    let parts = split_requirements(text)?;
    let requirements: Result<Vec<_>, _> = parts.into_iter().map(requirement).collect();
    Ok(Selector::new(requirements?))
}

/// Splits at commas outside of parentheses. An empty text has no part.
fn split_requirements(text: &str) -> Result<Vec<&str>, InvalidLabels> {
    let unbalanced = || InvalidLabels::Parenthesis(text.to_owned());
    let (mut parts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            '(' if is_inside => return Err(unbalanced()),
            '(' => is_inside = true,
            ')' if !is_inside => return Err(unbalanced()),
            ')' => is_inside = false,
            ',' if !is_inside => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if is_inside {
        return Err(unbalanced());
    }
    if !text.trim().is_empty() {
        parts.push(&text[start..]);
    }
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, InvalidLabels> {
    let text = text.trim();
    let refused = || InvalidLabels::Requirement(text.to_owned());
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::new(parse_key(key).ok_or_else(refused)?, Operator::DoesNotExist));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (left, values) = list.split_once('(').ok_or_else(refused)?;
        let (key, operator) = left.trim().rsplit_once(char::is_whitespace).ok_or_else(refused)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let operator = match operator {
            "in" => "In",
            "notin" => "NotIn",
            _ => return Err(refused()),
        };
        return Ok(Requirement::from_expression(parse_key(key).ok_or_else(refused)?, operator, values)?);
    }
    let (key, value, is_not) = if let Some((key, value)) = text.split_once("!=") {
        (key, value, true)
    } else if let Some((key, value)) = text.split_once("==") {
        (key, value, false)
    } else if let Some((key, value)) = text.split_once('=') {
        (key, value, false)
    } else {
        return Ok(Requirement::new(parse_key(text).ok_or_else(refused)?, Operator::Exists));
    };
    let key = parse_key(key).ok_or_else(refused)?;
    let value = value.trim();
    if value.contains(char::is_whitespace) || value.contains('=') {
        return Err(refused());
    }
    if is_not {
        return Ok(Requirement::from_expression(key, "NotIn", [value.to_owned()].into())?);
    }
    Ok(Requirement::equals(key, value))
}

fn parse_key(text: &str) -> Option<SelectorKey> {
    let text = text.trim();
    let is_clean = !text.contains(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '=' | ','));
    if is_clean { SelectorKey::parse(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use specola_labels::{Label, LabelSet};

    use super::*;

    #[test]
    fn pods() {
        for (pattern, namespace, pod, matches) in [
            ("web", "default", "web-1", true),
            ("web", "shop", "web-1", false),
            ("shop/web", "shop", "web-1", true),
            ("shop/web", "shop", "w", false),
            ("shop/", "shop", "anything", true),
            ("shop/", "shop2", "anything", false),
            ("/web", "any", "web", true),
            ("/", "any", "pod", true),
            ("/", "", "", false),
        ] {
            assert_eq!(
                PodPattern::parse(pattern).unwrap().matches(namespace, pod),
                matches,
                "{pattern} {namespace}/{pod}"
            );
        }
        assert!(PodPattern::parse("").is_none());
    }

    #[test]
    fn label_selectors() {
        let labels: LabelSet = ["k8s:app=web", "k8s:tier=front", "reserved:world"]
            .iter()
            .map(|l| l.parse::<Label>().unwrap())
            .collect();
        for (text, matches) in [
            ("app=web", true),
            ("k8s:app=web", true),
            ("cidr:app=web", false),
            ("app==web", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("app=web,tier=front", true),
            ("app=web, tier in (back), app", false),
            ("reserved:world", true),
            ("", true),
        ] {
            assert_eq!(label_selector(text).unwrap().matches(&labels), matches, "{text}");
        }
        for text in
            ["app in (a", "app in a)", "app)", "(", "app in", "=x", "!", "a b", "a=b=c", "app on (x)", ","]
        {
            assert!(label_selector(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            // A panic fails the test; any answer is right.
            let _answer = (label_selector(&text).is_ok(), PodPattern::parse(&text).is_some());
        }
    }
}
