//! Damage of every kind to files that were sound: it is refused, or it is a torn end, and never read as something else.

use super::*;

/// A log of three segments, and all states that it went through.
fn three_segments(close: bool) -> (SimFiles, Vec<Seen>) {
    let disk = SimFiles::new();
    let options = LogOptions { segment_bytes: 560, ..small() };
    let mut log = Log::open(&disk, options).unwrap();
    let mut states = vec![log.seen().unwrap()];
    let mut step = |log: &mut Log| {
        log.step();
        states.push(log.seen().unwrap());
    };
    log.append([entry(1, 0, 40), entry(1, 1, 40)]).unwrap();
    step(&mut log);
    log.vote(Vote::new_committed(2, 3)).unwrap();
    step(&mut log);
    for index in 2..8 {
        log.append([entry(2, index, 60)]).unwrap();
        step(&mut log);
        log.committed(log_id(2, index)).unwrap();
        step(&mut log);
    }
    log.truncate_after(Some(log_id(2, 7))).unwrap();
    log.append([entry(3, 8, 30), entry(3, 9, 30), entry(3, 10, 30)]).unwrap();
    step(&mut log);
    if close {
        log.stepper.close().unwrap();
    }
    disk.crash(Keep::Everything);
    assert_eq!(files(&disk).len(), 3);
    // Entries of one append may be found one by one.
    let last = states.last().unwrap().clone();
    for missing in 1..3 {
        let mut part = last.clone();
        part.entries.truncate(last.entries.len() - missing);
        part.last = part.entries.last().map(|entry| entry.log_id);
        states.push(part);
    }
    states.push(last);
    (disk, states)
}

fn files(disk: &SimFiles) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut names = disk.list(Path::new(DIR)).unwrap();
    names.sort();
    names
        .into_iter()
        .map(|name| (Path::new(DIR).join(&name), disk.contents(&Path::new(DIR).join(name)).unwrap()))
        .collect()
}

/// Without the room behind the records. No record of these tests ends with a zero.
fn records(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}

/// Opens a copy of a log with some files replaced.
fn open_with(disk: &SimFiles, changes: &[(&Path, Option<Vec<u8>>)]) -> Result<Seen, LogError> {
    let copy = SimFiles::new();
    copy.create_dir(Path::new(DIR)).unwrap();
    for (path, bytes) in files(disk) {
        copy.overwrite(&path, bytes);
    }
    for (path, bytes) in changes {
        match bytes {
            Some(bytes) => copy.overwrite(path, bytes.clone()),
            None => copy.remove(path).unwrap(),
        }
    }
    let before = files(&copy);
    let opened = Log::open(&copy, small()).map(|mut log| log.seen().unwrap());
    if opened.is_err() {
        assert_eq!(files(&copy), before, "a refused log is left as it was");
    }
    opened
}

#[test]
fn a_flipped_bit_is_refused_or_costs_no_more_than_the_last_record() {
    for close in [false, true] {
        let (disk, states) = three_segments(close);
        let files = files(&disk);
        let (last_file, whole) = (&files[2].0, states.last().unwrap());
        let mut cut = 0;
        for (path, bytes) in &files {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                match open_with(&disk, &[(path, Some(damaged))]) {
                    Err(LogError::Corrupt { file, offset, .. }) => {
                        assert_eq!(&file, path);
                        assert!(offset <= bit as u64 / 8, "{}: bit {bit}, found at {offset}", path.display());
                    }
                    Err(other) => panic!("{other}"),
                    Ok(seen) => {
                        cut += 1;
                        assert_eq!(path, last_file);
                        if close {
                            assert_eq!(seen, *whole, "a closed log loses nothing but the mark that it was closed");
                        } else {
                            assert!(states.contains(&seen));
                            assert!(seen.entries.len() + 1 >= whole.entries.len(), "more than the last record is gone");
                        }
                    }
                }
            }
        }
        assert!(cut > 0, "the very last record cannot be told from a torn one");
    }
}

#[test]
fn a_block_that_was_synced_and_is_lost_is_no_torn_write() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions::default()).unwrap();
    for index in 0..4 {
        log.append([entry(1, index, 2000)]).unwrap();
        log.step();
    }
    let path = files(&disk).pop().unwrap().0;
    let bytes = records(disk.contents(&path).unwrap());
    for start in (512..bytes.len() - 512).step_by(512) {
        let mut damaged = bytes.clone();
        damaged[start..start + 512].fill(0);
        let opened = open_with(&disk, &[(&path, Some(damaged))]);
        let last_record = bytes.len() - 2037;
        if start + 512 <= last_record {
            assert!(matches!(opened, Err(LogError::Corrupt { .. })), "block at {start}: {opened:?}");
        } else if start >= last_record {
            assert_eq!(opened.unwrap().entries.len(), 3, "in the last record it cannot be told from a torn one");
        }
    }
}

#[test]
fn a_file_that_ends_early_is_cut_there_if_it_is_the_last_and_refused_if_not() {
    let (disk, states) = three_segments(false);
    let files = files(&disk);
    for (number, (path, bytes)) in files.iter().enumerate() {
        for size in 0..bytes.len() {
            match open_with(&disk, &[(path, Some(bytes[..size].to_vec()))]) {
                Ok(seen) => {
                    assert_eq!(number, 2, "{} of {size} bytes", path.display());
                    assert!(states.contains(&seen), "{size} bytes: {seen:?}");
                }
                Err(LogError::Corrupt { file, .. }) => {
                    // Cut between two records, an earlier segment only shows by what follows it.
                    assert!(file == *path || Some(&file) == files.get(number + 1).map(|next| &next.0));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn garbage_behind_the_end_is_cut_off_and_later_appends_follow() {
    let (disk, states) = three_segments(false);
    let (path, bytes) = files(&disk).pop().unwrap();
    let bytes = records(bytes);
    for garbage in [vec![0; 5000], vec![0xff; 3], b"TENURLOG".repeat(40)] {
        disk.overwrite(&path, [bytes.clone(), garbage].concat());
        let mut log = Log::open(&disk, small()).unwrap();
        assert_eq!(log.seen().unwrap(), *states.last().unwrap());
        assert_eq!(disk.contents(&path).unwrap(), bytes);
        drop(log);
    }
    let mut log = Log::open(&disk, small()).unwrap();
    log.append([entry(4, 11, 10)]).unwrap();
    log.step();
    let seen = log.seen().unwrap();
    drop(log);
    assert_eq!(Log::open(&disk, small()).unwrap().seen().unwrap(), seen);
}

#[test]
fn room_behind_the_records_is_no_damage_and_goes_with_the_end_of_its_file() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions::default()).unwrap();
    let lengths = |disk: &SimFiles| files(disk).iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>();
    let begun = lengths(&disk);
    log.append([entry(1, 0, 100)]).unwrap();
    log.step();
    assert_eq!(lengths(&disk), [256 << 10], "a small write makes room");
    log.append([entry(1, 1, 100)]).unwrap();
    log.step();
    assert_eq!(lengths(&disk), [256 << 10], "the next one lies in it");
    log.append([entry(1, 2, 300 << 10)]).unwrap();
    log.step();
    assert!(lengths(&disk)[0] < begun[0] + (301 << 10), "a large write makes none");
    log.append([entry(1, 3, 100)]).unwrap();
    log.step();
    assert_eq!(lengths(&disk), [512 << 10]);

    disk.crash(Keep::Everything);
    let mut log = Log::open(&disk, LogOptions::default()).unwrap();
    let records = lengths(&disk);
    assert!(records[0] < begun[0] + (302 << 10), "it is cut off when the log is opened");
    assert_eq!(log.seen().unwrap().entries.len(), 4);
    log.append([entry(1, 4, 100)]).unwrap();
    log.step();
    assert_eq!(lengths(&disk), [512 << 10]);
    log.stepper.close().unwrap();
    assert!(lengths(&disk)[0] < records[0] + 512, "and when it is closed");
    assert_eq!(Log::open(&disk, LogOptions::default()).unwrap().seen().unwrap().entries.len(), 5);
}

#[test]
fn a_file_that_others_follow_has_no_room_behind_its_records() {
    let (disk, _) = three_segments(false);
    let files = files(&disk);
    for (path, bytes) in &files[..2] {
        assert!(open_with(&disk, &[(path, Some([&bytes[..], &[0; 512]].concat()))]).is_err(), "{}", path.display());
    }
    let (path, bytes) = &files[2];
    assert!(open_with(&disk, &[(path, Some([&bytes[..], &[0; 512]].concat()))]).is_ok());
}

#[test]
fn a_missing_or_foreign_segment_is_refused_by_name() {
    let (disk, _) = three_segments(false);
    let files = files(&disk);
    let [first, middle, last] = [0, 1, 2].map(|n| files[n].0.as_path());
    let refused = |changes: &[(&Path, Option<Vec<u8>>)]| match open_with(&disk, changes) {
        Err(error @ LogError::Corrupt { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let missing = refused(&[(first, None)]);
    assert!(missing.contains("00000000000000000002.wal") && missing.contains("entries 0 to"), "{missing}");
    assert!(missing.contains("remove the member"), "{missing}");
    assert!(refused(&[(middle, None)]).contains("missing, after 00000000000000000001.wal"));
    assert!(refused(&[(last, Some(files[1].1.clone()))]).contains("the header belongs to segment 2"));
    assert!(refused(&[(last, Some(b"garbage".to_vec()))]).contains("7 bytes of a segment header"));
    assert!(refused(&[(last, Some(vec![7; 4000]))]).contains("magic is missing"));

    // Another log of the same shape: its numbers fit, its stamp does not.
    let (other, _) = three_segments(false);
    let foreign = other.contents(last).unwrap();
    assert!(refused(&[(last, Some(foreign))]).contains("belongs to another log"));
}

#[test]
fn what_an_interrupted_deletion_left_is_deleted() {
    let (disk, _) = three_segments(false);
    let oldest = files(&disk).swap_remove(0);
    let mut log = Log::open(&disk, small()).unwrap();
    log.committed(log_id(3, 10)).unwrap();
    log.purge(log_id(3, 10)).unwrap();
    for index in 11..13 {
        log.append([entry(3, index, 10)]).unwrap();
        log.step();
    }
    let seen = log.seen().unwrap();
    drop(log);
    assert_eq!(files(&disk).len(), 1, "the last segment");
    disk.overwrite(&oldest.0, oldest.1);
    assert_eq!(Log::open(&disk, small()).unwrap().seen().unwrap(), seen);
    assert_eq!(files(&disk).len(), 1);
}

#[test]
fn records_of_another_segment_do_not_replay_behind_the_end() {
    let (disk, states) = three_segments(false);
    let files = files(&disk);
    // The bytes that a recycled file might still hold: sound records, of another segment.
    let stale = files[1].1[32..].to_vec();
    let glued = [files[2].1.clone(), stale].concat();
    assert_eq!(open_with(&disk, &[(&files[2].0, Some(glued))]).unwrap(), *states.last().unwrap());
}

#[test]
fn other_files_in_the_directory_do_not_matter() {
    let (disk, states) = three_segments(false);
    let names = ["core", "1.wal", "00000000000000000001.wal.bak", "x.wal.new", ".wal", "00000000000000000009.wal.new"];
    let paths = names.map(|name| Path::new(DIR).join(name));
    let changes: Vec<_> = paths.iter().map(|path| (path.as_path(), Some(vec![1; 100]))).collect();
    assert_eq!(open_with(&disk, &changes).unwrap(), *states.last().unwrap());
}

#[test]
fn random_bytes_in_place_of_segments_never_panic() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let mut rng = StdRng::seed_from_u64(1);
    let (disk, states) = three_segments(true);
    let files = files(&disk);
    for _ in 0..2000 {
        let (path, bytes) = &files[rng.random_range(0..3)];
        let mut bytes = bytes.clone();
        let start = rng.random_range(0..bytes.len());
        let end = rng.random_range(start..=bytes.len());
        rng.fill(&mut bytes[start..end]);
        if let Ok(seen) = open_with(&disk, &[(path, Some(bytes))]) {
            assert!(states.contains(&seen));
        }
    }
}

#[test]
fn damage_that_appears_while_the_log_is_open_is_found_by_whoever_reads_it() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions { tail_bytes_max: 0, ..small() }).unwrap();
    log.append([entry(1, 0, 100), entry(1, 1, 100)]).unwrap();
    log.step();
    let path = files(&disk).pop().unwrap().0;
    let mut bytes = disk.contents(&path).unwrap();
    let at = records(bytes.clone()).len() - 50;
    bytes[at] ^= 1;
    disk.overwrite(&path, bytes);
    let error = log.seen().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        error
            .to_string()
            .contains("/data/log/00000000000000000001.wal, byte 193: entry 1.1 was stored here and is damaged now"),
        "{error}"
    );
}
