//! Every interleaving of one writer and readers, explored by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p specola-ring --test loom --release`.
#![cfg(loom)]

use loom::thread;
use specola_ring::{Next, Read, ring};

/// Both words must belong together.
fn record(seq: u64) -> [u64; 2] {
    [seq + 100, !(seq + 100)]
}

#[test]
fn a_copy_is_never_torn() {
    loom::model(|| {
        let (mut writer, reader) = ring::<[u64; 2]>(1).unwrap();
        let writing = thread::spawn(move || {
            for seq in 0..2 {
                writer.push(&record(seq), seq);
            }
        });
        for seq in 0..2 {
            if let Read::Item(value) = reader.read(seq) {
                assert_eq!(value, record(seq));
            }
        }
        writing.join().unwrap();
        assert_eq!(reader.read(1), Read::Item(record(1)));
        assert_eq!(reader.read(0), Read::Overwritten);
    });
}

#[test]
fn a_cursor_accounts_for_every_record() {
    loom::model(|| {
        let (mut writer, reader) = ring::<[u64; 2]>(2).unwrap();
        let writing = thread::spawn(move || {
            for seq in 0..3 {
                writer.push(&record(seq), seq);
            }
        });
        let (mut cursor, mut accounted) = (reader.cursor(0), 0);
        let mut account = |next: Next<[u64; 2]>| match next {
            Next::Item { seq, value } => {
                assert_eq!((seq, value), (accounted, record(seq)));
                accounted += 1;
                true
            }
            Next::Lost(lost) => {
                assert_eq!(lost.from, accounted);
                accounted = lost.to;
                true
            }
            Next::Pending => false,
        };
        account(cursor.next());
        account(cursor.next());
        writing.join().unwrap();
        while account(cursor.next()) {}
        assert_eq!(accounted, 3);
    });
}

#[test]
fn block_times_cover_what_is_readable() {
    loom::model(|| {
        let (mut writer, reader) = ring::<[u64; 2]>(2).unwrap();
        let writing = thread::spawn(move || {
            for (seq, time) in [(0, 5), (1, 9), (2, 3)] {
                writer.push(&record(seq), time);
            }
        });
        let head = reader.head();
        if let Some(block) = head.checked_sub(1).and_then(|newest| reader.block(newest)) {
            let times = [5, 9, 3];
            for seq in block.first..head {
                let time = times[seq as usize];
                assert!(block.min_ns <= time && time <= block.max_ns);
            }
        }
        writing.join().unwrap();
    });
}
