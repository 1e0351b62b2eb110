//! What the hub and the streams may allocate, counted: a figure that is the same on every machine. docs/COSTS.md says what
//! to do when it is exceeded.

use tenure_core::Revision;

use super::super::types::WatchMessage;
use super::world::{Client, World, watch_key};

const STREAMS: usize = 100;
const WATCHERS_PER_STREAM: usize = 10;
const EVENTS: u64 = 20;

/// Of one event: two for a watcher, one for a stream, and a few.
const ALLOCATIONS: u64 = 2108;
/// Less than one for a stream, and more than what the tables of another standard library may differ by.
const TOLERANCE: u64 = 50;

#[test]
fn an_event_for_a_thousand_watchers_keeps_to_its_budget() {
    let mut world = World::new(1 << 20);
    let mut clients: Vec<Client> = (0..STREAMS).map(|_| Client::new(&world)).collect();
    for client in &mut clients {
        (0..WATCHERS_PER_STREAM).for_each(|_| client.stream.create(watch_key("k"), &world.view()));
    }
    let mut counted = 0;
    // The first events find tables to grow.
    for number in 0..2 * EVENTS {
        let revision = world.put("k", "v");
        let told = allocation_counter::measure(|| tell(&mut clients, &world, revision));
        counted += if number < EVENTS { 0 } else { told.count_total };
    }
    let each = counted / EVENTS;
    let is_kept = each.abs_diff(ALLOCATIONS) <= TOLERANCE;
    assert!(
        is_kept,
        "an event costs {each} allocations, and may cost {ALLOCATIONS}; adapt the budget if that is meant"
    );
}

/// Matches, and takes all messages.
fn tell(clients: &mut [Client], world: &World, revision: Revision) {
    world.match_all();
    let mut told = 0;
    for client in clients {
        client.stream.collect();
        while client.stream.has_turn() {
            client.turn(world);
            while let Some(message) = client.stream.message() {
                told += usize::from(matches!(message, WatchMessage::Events { revision: of, .. } if of == revision));
            }
        }
        assert!(client.works.is_empty(), "all events are among the recent ones");
    }
    assert_eq!(told, STREAMS * WATCHERS_PER_STREAM);
}
