#![no_main]
//! Any text is a case file that can be played, or is refused.

use libfuzzer_sys::fuzz_target;
use specola_policy::cases::CaseFile;

fuzz_target!(|text: &str| {
    if let Ok(file) = CaseFile::parse(text) {
        assert!(file.play(|_| Err("no files".to_owned())).count() == file.len());
    }
});
