//! What does not work as it should, for the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Warnings by the part that has them; shared by all parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Warnings {
    /// Sets or clears the warning of a part; a new one goes to the log.
    pub(crate) fn set(&self, part: &'static str, warning: Option<String>) {
        let mut warnings = self.0.lock();
        match warning {
            None => {
                if warnings.remove(part).is_some() {
                    tracing::info!(part, "works again");
                }
            }
            Some(text) => {
                if warnings.get(part) != Some(&text) {
                    tracing::warn!(part, warning = text, "does not work as it should");
                    warnings.insert(part, text);
                }
            }
        }
    }

    /// All warnings, `part: text`.
    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().iter().map(|(part, text)| format!("{part}: {text}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_warning_at_most() {
        let warnings = Warnings::default();
        warnings.set("store", Some("lost".to_owned()));
        warnings.set("store", Some("still lost".to_owned()));
        assert_eq!(warnings.list(), ["store: still lost"]);
        warnings.set("store", None);
        assert!(warnings.list().is_empty());
    }
}
