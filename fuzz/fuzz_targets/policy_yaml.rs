#![no_main]
//! Any text is read or refused; what was read can be put into force.

use libfuzzer_sys::fuzz_target;
use specola_policy::{IdentityTable, ParseOptions, Repository, Settings, Subject, parse_policies_with, resolve};

fuzz_target!(|text: &str| {
    let options = ParseOptions {
        node_selector_labels: true,
        extended_protocols: true,
        cluster_network_policy: true,
    };
    let parsed = parse_policies_with("fuzz", text, options);
    let mut repository = Repository::new(Settings::default());
    for object in parsed.objects {
        repository.upsert(object);
    }
    let identities = IdentityTable::with_reserved();
    // Rules that contradict each other, or do not fit, are errors.
    drop(resolve(&repository, &Subject::default(), &identities));
});
