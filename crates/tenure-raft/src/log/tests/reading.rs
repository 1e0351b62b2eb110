//! What readers get: from memory or from the disk, whole or in portions.

use futures::{StreamExt, TryStreamExt};
use openraft::storage::LeaderBoundedStreamError;

use super::*;
use crate::types::LeaderId;

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// A log of entries 0 to 39 of 100 bytes, ten of each term, of which few are in memory.
fn forty() -> (SimFiles, Log) {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions { read_bytes_max: 1000, ..small() }).unwrap();
    for index in 0..40 {
        log.append([entry(index / 10, index, 100)]).unwrap();
        log.committed(log_id(index / 10, index)).unwrap();
        log.step();
    }
    (disk, log)
}

#[test]
fn entries_are_the_same_from_memory_and_from_the_disk() {
    let (_, mut log) = forty();
    let before = log.store.counters().entries_read_from_disk;
    let newest = now(log.store.try_get_log_entries(38..)).unwrap();
    assert_eq!(newest, [entry(3, 38, 100), entry(3, 39, 100)]);
    assert_eq!(log.store.counters().entries_read_from_disk, before, "the newest are in memory");
    let all = now(log.store.try_get_log_entries(..)).unwrap();
    assert_eq!(all, (0..40).map(|index| entry(index / 10, index, 100)).collect::<Vec<_>>());
    let from_disk = log.store.counters().entries_read_from_disk - before;
    assert!((30..40).contains(&from_disk), "{from_disk}");
    assert_eq!(indexes(&now(log.store.try_get_log_entries(5..=7)).unwrap()), [5, 6, 7]);
    assert!(now(log.store.try_get_log_entries(40..)).unwrap().is_empty());
}

#[test]
fn a_limited_read_is_bounded_by_bytes_and_never_empty() {
    let (_, mut log) = forty();
    let mut next = 0;
    while next < 40 {
        let entries = now(log.store.limited_get_log_entries(next, 40)).unwrap();
        assert_eq!(entries[0].log_id.index, next);
        assert!(entries.len() <= 9, "{} entries of 100 bytes are more than 1000 bytes", entries.len());
        next += entries.len() as u64;
    }
    log.append([entry(3, 40, 5000)]).unwrap();
    assert_eq!(indexes(&now(log.store.limited_get_log_entries(40, 41)).unwrap()), [40]);
    assert!(now(log.store.limited_get_log_entries(7, 7)).unwrap().is_empty());
    log.purge(log_id(0, 5)).unwrap();
    assert!(now(log.store.limited_get_log_entries(5, 9)).unwrap().is_empty(), "entry 6 must not pass for entry 5");
}

#[test]
fn a_stream_yields_every_entry_of_a_long_range() {
    let (_, mut log) = forty();
    let all: Vec<Entry> = now(async { log.store.entries_stream(3..).await.try_collect().await }).unwrap();
    assert_eq!(indexes(&all), (3..40).collect::<Vec<u64>>());
}

#[test]
fn a_stream_for_a_leader_ends_when_the_vote_moves() {
    let (_, mut log) = forty();
    let leader = LeaderId { term: 7, voted_for: 1 };
    let read = |log: &mut Log| -> Vec<_> {
        now(async { log.store.leader_bounded_stream(leader, 0..40).await.collect().await })
    };
    let changed = |item: &Result<Entry, _>| matches!(item, Err(LeaderBoundedStreamError::LeaderChanged(_)));
    assert!(matches!(&read(&mut log)[..], [one] if changed(one)), "no vote");
    log.vote(Vote::new(7, 1)).unwrap();
    assert!(matches!(&read(&mut log)[..], [one] if changed(one)), "the vote is not committed");
    log.vote(Vote::new_committed(7, 1)).unwrap();
    assert_eq!(read(&mut log).len(), 40);

    let mut moved = log.store.clone();
    let mut stream = Box::pin(now(log.store.leader_bounded_stream(leader, 0..40)));
    assert!(now(stream.next()).unwrap().is_ok());
    drop(moved.queue_vote(Vote::new(8, 2)).unwrap());
    now(async { moved.truncate_after(None).await }).unwrap();
    let rest: Vec<_> = now(stream.collect());
    let (last, before) = rest.split_last().unwrap();
    assert!(changed(last));
    assert!(before.len() < 10 && before.iter().all(Result::is_ok), "no more than the portion that was read");
}

#[test]
fn a_stream_that_purge_overtakes_ends_with_an_error_instead_of_a_hole() {
    let (_, mut log) = forty();
    let mut store = log.store.clone();
    let mut stream = Box::pin(now(store.entries_stream(0..40)));
    assert_eq!(now(stream.next()).unwrap().unwrap().log_id.index, 0);
    log.purge(log_id(2, 29)).unwrap();
    log.step();
    let rest: Vec<_> = now(stream.collect());
    let (last, before) = rest.split_last().unwrap();
    assert!(last.is_err());
    assert!(before.iter().all(Result::is_ok));
}

#[test]
fn what_is_read_stays_readable_while_its_segment_is_deleted() {
    let (disk, mut log) = forty();
    let segments = disk.list(Path::new(DIR)).unwrap().len();
    assert_eq!(log.store.first_index(), 0);
    log.purge(log_id(3, 35)).unwrap();
    assert_eq!((log.store.first_index(), log.store.last_index()), (36, Some(39)));
    for index in 40..60 {
        log.append([entry(4, index, 10)]).unwrap();
        log.step();
        assert_eq!(indexes(&log.seen().unwrap().entries), (36..=index).collect::<Vec<u64>>());
    }
    assert!(disk.list(Path::new(DIR)).unwrap().len() < segments, "purged segments are deleted, one per group");
    drop(log);
    let mut log = Log::open(&disk, small()).unwrap();
    assert_eq!(indexes(&log.seen().unwrap().entries), (36..60).collect::<Vec<u64>>());
}

#[test]
fn purging_beyond_the_end_moves_the_end() {
    let (disk, mut log) = forty();
    log.purge(log_id(9, 100)).unwrap();
    assert!(log.append([entry(9, 100, 1)]).is_err());
    log.append([entry(9, 101, 1)]).unwrap();
    log.step();
    drop(log);
    let mut log = Log::open(&disk, small()).unwrap();
    let seen = log.seen().unwrap();
    assert_eq!((seen.purged, seen.last), (Some(log_id(9, 100)), Some(log_id(9, 101))));
    assert_eq!(indexes(&seen.entries), [101]);
    log.purge(log_id(1, 3)).unwrap();
    assert_eq!(log.seen().unwrap(), seen, "a purge never goes back");
}

#[test]
fn the_committed_mark_never_leads_beyond_the_log() {
    for (mark, expected) in [
        (log_id(3, 39), Some(log_id(3, 39))),
        (log_id(3, 50), Some(log_id(3, 39))),
        // Entry 39 may be one that the leader of term 4 replaced.
        (log_id(4, 50), Some(log_id(1, 15))),
    ] {
        let (disk, mut log) = forty();
        log.purge(log_id(1, 15)).unwrap();
        log.committed(mark).unwrap();
        log.step();
        drop(log);
        let mut log = Log::open(&disk, small()).unwrap();
        assert_eq!(log.seen().unwrap().committed, expected);
        // What was refused once must not come back when the log has grown past it.
        log.append((40..60).map(|index| entry(5, index, 1))).unwrap();
        log.step();
        drop(log);
        assert_eq!(Log::open(&disk, small()).unwrap().seen().unwrap().committed, expected);
    }
}

#[test]
fn key_log_ids_are_found_without_reading_entries() {
    let (disk, log) = forty();
    drop(log);
    let mut log = Log::open(&disk, small()).unwrap();
    let keys = now(log.store.get_key_log_ids(log_id(0, 0)..=log_id(3, 39))).unwrap();
    assert_eq!(keys, [log_id(0, 9), log_id(1, 19), log_id(2, 29), log_id(3, 39)]);
    assert_eq!(log.store.counters().entries_read_from_disk, 0);
}

#[test]
fn a_truncated_entry_never_comes_back_in_place_of_its_successor() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions { tail_bytes_max: 0, ..small() }).unwrap();
    log.append((0..10).map(|index| entry(1, index, 50))).unwrap();
    log.step();
    // The writer has not seen these yet, while the disk still holds the old ones.
    log.truncate_after(Some(log_id(1, 4))).unwrap();
    assert_eq!(indexes(&log.seen().unwrap().entries), [0, 1, 2, 3, 4]);
    log.append((5..8).map(|index| entry(2, index, 50))).unwrap();
    let expected: Vec<Entry> = (0..5).map(|i| entry(1, i, 50)).chain((5..8).map(|i| entry(2, i, 50))).collect();
    assert_eq!(log.seen().unwrap().entries, expected);
    log.step();
    assert_eq!(log.seen().unwrap().entries, expected);
}
