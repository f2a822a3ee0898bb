//! Every interleaving of one writer and readers, explored by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p specola-ring --test loom --release`.
#![cfg(loom)]

use loom::thread;
use specola_ring::{Class, Next, Read, ring};

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
                writer.push(&record(seq), seq, Class::Common);
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
        // Made first: what is overwritten before a cursor exists is not its loss.
        let (mut cursor, mut accounted) = (reader.cursor(0), 0);
        let writing = thread::spawn(move || {
            for seq in 0..3 {
                writer.push(&record(seq), seq, Class::Common);
            }
        });
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
                writer.push(&record(seq), time, Class::Common);
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

#[test]
fn a_protected_record_is_held_while_common_ones_pass() {
    loom::model(|| {
        let (mut writer, reader) = ring::<[u64; 2]>(4).unwrap();
        writer.push(&record(0), 0, Class::Protected);
        for seq in 1..4 {
            writer.push(&record(seq), seq, Class::Common);
        }
        let writing = thread::spawn(move || {
            writer.push(&record(4), 4, Class::Common);
        });
        // Overwritten in the ring or not: it is there.
        assert_eq!(reader.read(0), Read::Item(record(0)));
        writing.join().unwrap();
        assert_eq!(reader.oldest(), 1);
        assert_eq!(reader.cursor(0).next(), Next::Item { seq: 0, value: record(0) });
    });
}

#[test]
fn a_protected_record_is_replaced_whole() {
    loom::model(|| {
        let (mut writer, reader) = ring::<[u64; 2]>(4).unwrap();
        writer.push(&record(0), 0, Class::Protected);
        for seq in 1..4 {
            writer.push(&record(seq), seq, Class::Common);
        }
        let writing = thread::spawn(move || {
            writer.push(&record(4), 4, Class::Protected);
        });
        match reader.read(0) {
            Read::Item(value) => assert_eq!(value, record(0)),
            Read::Overwritten => {}
            Read::Pending => panic!("it was written before the thread began"),
        }
        writing.join().unwrap();
        assert_eq!(reader.oldest_protected(), 1);
    });
}
