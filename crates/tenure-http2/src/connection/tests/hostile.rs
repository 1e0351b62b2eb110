//! What a client may try that wants the server's work or memory and not its answers. Each of these was possible once.

use super::*;

/// Why a connection ends on which no call is ever answered.
fn unanswered(bytes: &[u8]) -> Option<Reason> {
    let mut session = Session::open();
    session.answer = None;
    session.hear(bytes);
    session.error.map(|error| error.reason)
}

fn head(id: u32, flags: u8, more: &[u8]) -> Vec<u8> {
    frame(frame::HEADERS, END_HEADERS | flags, id, &head_block(more))
}

fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// The work of a call goes on for a while when its stream is reset, whoever does that (CVE-2025-8671).
#[test]
fn who_makes_us_reset_its_streams_is_cut_off_like_who_resets_them() {
    let ways: [fn(u32) -> Vec<u8>; 7] = [
        |id| [request(id, b""), frame(frame::DATA, 0, id, b"more")].concat(),
        |id| [head(id, 0, &[0x0f, 13, 1, b'1']), frame(frame::DATA, 0, id, b"more")].concat(),
        |id| [request(id, b""), frame(frame::HEADERS, END_HEADERS | END_STREAM, id, &[])].concat(),
        |id| [head(id, 0, &[]), frame(frame::HEADERS, END_HEADERS, id, &[])].concat(),
        |id| [head(id, 0, &[]), update(id, 0x7fff_ffff)].concat(),
        |id| [head(id, 0, &[]), update(id, 0)].concat(),
        |id| [head(id, 0, &[]), frame(frame::PRIORITY, 0, id, &[0; 4])].concat(),
    ];
    for (number, way) in ways.iter().enumerate() {
        let flood: Vec<u8> = ids(11_000).flat_map(way).collect();
        assert_eq!(unanswered(&flood), Some(Reason::ENHANCE_YOUR_CALM), "way {number}");
    }
}

#[test]
fn a_change_of_all_windows_costs_by_the_number_of_streams() {
    let changes = |count: u8| -> Vec<u8> {
        (0..count).flat_map(|number| frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 1, number])).collect()
    };
    let open: Vec<u8> = ids(20_000).flat_map(|id| head(id, 0, &[])).collect();
    assert_eq!(unanswered(&[&open[..], &changes(100)].concat()), Some(Reason::ENHANCE_YOUR_CALM));
    // A client that learns how much it should let us send does so a few times.
    assert_eq!(unanswered(&[&open[..], &changes(10)].concat()), None);
    assert_eq!(unanswered(&changes(100)), None);
}

#[test]
fn a_block_that_stands_for_far_more_than_it_has_ends_the_connection() {
    // One entry of nearly 4 KiB, and fields of two bytes each that have its text as their name.
    let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'n'; 4000], &[1, b'v']].concat();
    let fields = [0x0f, 0x2f, 0x00].repeat(5000);
    let flood = [head(1, END_STREAM, &name), head(3, END_STREAM, &fields)].concat();
    assert_eq!(unanswered(&flood), Some(Reason::ENHANCE_YOUR_CALM));
    let fields = [0xbe].repeat(15_000);
    let flood = [head(1, END_STREAM, &name), head(3, END_STREAM, &fields)].concat();
    assert_eq!(unanswered(&flood), Some(Reason::ENHANCE_YOUR_CALM));
    // The same for trailers.
    let trailers = frame(frame::HEADERS, END_HEADERS | END_STREAM, 3, &fields);
    let flood = [head(1, END_STREAM, &name), head(3, 0, &[]), trailers].concat();
    assert_eq!(unanswered(&flood), Some(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn heads_that_are_too_large_are_answered_but_not_for_ever() {
    let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'n'; 4000], &[1, b'v']].concat();
    let large = |id| head(id, END_STREAM, &[0xbe; 5]);
    let first = head(1, END_STREAM, &name);
    let some: Vec<u8> = (1..1000).flat_map(|number| large(2 * number + 1)).collect();
    assert_eq!(unanswered(&[&first[..], &some].concat()), None);
    let many: Vec<u8> = (1..11_000).flat_map(|number| large(2 * number + 1)).collect();
    assert_eq!(unanswered(&[&first[..], &many].concat()), Some(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn calls_that_end_by_short_deadlines_are_no_nuisance() {
    let mut session = Session::open();
    session.answer = None;
    ids(20_000).for_each(|id| session.hear(&request(id, b"")));
    session.now += Duration::from_millis(20);
    ids(20_000).for_each(|id| session.hear(&frame(frame::RST_STREAM, 0, id, &[0, 0, 0, 8])));
    assert_eq!((session.error, session.core.streams.len()), (None, 0));
}

/// Answers whose client lets nothing be sent.
#[test]
fn what_waits_for_windows_is_counted_with_what_keeping_it_costs() {
    let mut session = Session::with(&Options { unsent_bytes_max: 100_000, ..Options::default() });
    session.hear(&[preface(), frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat());
    session.said();
    let mut count = 0;
    while !session.said().contains("RST_STREAM") {
        session.hear(&request(2 * count + 1, b"ping"));
        count += 1;
        assert!(count < 1000, "small answers are kept without end");
    }
    assert!(session.core.held_bytes() > 9 * usize::try_from(count).expect("small"));
    for id in ids(count - 1) {
        session.hear(&frame(frame::RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    session.said();
    assert_eq!(session.core.held_bytes(), 0);
}

/// Twenty streams that may be filled.
fn twenty_streams(options: &Options, start: &[u8]) -> (Session, Vec<Key>) {
    let mut session = Session::with(options);
    session.answer = None;
    session.hear(&[&preface(), start].concat());
    let mut keys = Vec::new();
    for id in ids(20) {
        session.hear(&request(id, b""));
        let key = session.core.streams.find(id).expect("a stream");
        session.core.send_head(key, 200, &HeaderMap::new(), false);
        keys.push(key);
    }
    (session, keys)
}

/// Fills these as long as they have room; answers what each got.
fn fill(session: &mut Session, slots: impl IntoIterator<Item = u32>, sums: &mut [usize]) {
    for slot in slots {
        let (key, _) = session.core.streams.at(slot).expect("a stream");
        while session.core.has_room(key) {
            session.core.push(key, Bytes::from_static(&[7; 20_000]));
            session.core.pump();
            sums[usize::try_from(slot).expect("small")] += 20_000;
        }
    }
}

#[test]
fn bodies_wait_where_they_come_from_until_their_windows_let_them_go() {
    for closed in [frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), Vec::new()] {
        let (mut session, keys) = twenty_streams(&Options::default(), &closed);
        let mut sums = [0; 20];
        fill(&mut session, keys.iter().map(|key| key.slot), &mut sums);
        // All that is kept is what was begun when the windows closed.
        assert!(session.core.unsent_bytes <= 20_000, "{}", session.core.unsent_bytes);
        let before = sums;
        for _ in 0..200 {
            let increment = if closed.is_empty() { 0 } else { 4000 };
            let updates = ids(20).filter(|_| increment > 0).flat_map(|id| update(id, increment));
            session.hear(&updates.chain(update(0, 80_000)).collect::<Vec<_>>());
            for _ in 0..3 {
                session.core.output.take_all();
                let mut slots = Vec::new();
                session.core.take_roomy(&mut slots);
                fill(&mut session, slots, &mut sums);
            }
            assert!(session.core.unsent_bytes <= 20 * 20_000, "{}", session.core.unsent_bytes);
        }
        for (sum, before) in sums.iter().zip(before) {
            assert!(closed.is_empty() || sum - before > 700_000, "{sums:?}");
            assert!(*sum >= 60_000, "{sums:?}");
        }
    }
}

#[test]
fn bodies_wait_when_all_of_them_together_are_much() {
    let open = [frame(frame::SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]), update(0, 0x7f00_0000)].concat();
    let options = Options { unsent_bytes_max: 200_000, ..Options::default() };
    let (mut session, keys) = twenty_streams(&options, &open);
    let mut sums = [0; 20];
    fill(&mut session, keys.iter().map(|key| key.slot), &mut sums);
    let held = session.core.held_bytes();
    assert!(held < OUTPUT_BYTES_MAX + 20 * 30_000, "{held}");
    assert!(sums.iter().all(|sum| *sum > 0), "{sums:?}");
    for _ in 0..20 {
        session.core.output.take_all();
        session.core.pump();
        let mut slots = Vec::new();
        session.core.take_roomy(&mut slots);
        fill(&mut session, slots, &mut sums);
    }
    assert!(sums.iter().all(|sum| *sum > 100_000), "{sums:?}");
}
