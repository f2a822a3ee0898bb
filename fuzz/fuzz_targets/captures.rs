#![no_main]
//! Any bytes are a capture that is read to its end or to where it is damaged; memory stays bounded.

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use specola_capture::Capture;

fuzz_target!(|bytes: Vec<u8>| {
    let most = bytes.len();
    let Ok(mut capture) = Capture::open(Cursor::new(bytes)) else { return };
    let mut last = 0;
    while let Ok(Some(record)) = capture.next_record() {
        assert!(record.number > last, "records are counted");
        last = record.number;
        let interface = record.interface;
        capture.interface_name(interface);
        // Packed data may be longer than the file, but not without end.
        assert!(last <= 1100 * (most as u64 + 64), "every record takes some bytes of the file");
    }
});
