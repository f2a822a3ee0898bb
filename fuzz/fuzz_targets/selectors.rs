#![no_main]
//! Keys, requirements and labels: read or refused, and a label that was read is found by its own selector.

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use specola_labels::{Label, LabelSet, Requirement, Selector, SelectorKey};

fuzz_target!(|input: (&str, &str, Vec<String>)| {
    let (key, operator, values) = input;
    let values: BTreeSet<String> = values.into_iter().collect();
    let labels: LabelSet = values.iter().filter_map(|text| text.parse::<Label>().ok()).collect();
    for label in &labels {
        let own = SelectorKey::new(label.source(), label.key());
        assert!(Selector::equals(own, label.value()).matches(&labels), "{label}");
    }
    if let Ok(key) = SelectorKey::parse(key)
        && let Ok(requirement) = Requirement::from_expression(key, operator, values)
    {
        Selector::new([requirement]).matches(&labels);
    }
});
