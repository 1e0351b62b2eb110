//! The steady writer: lanes that each put one key after another and wait for each answer.
//!
//! A write that fails is not sent again: whether it took effect is unknown, and the next one has another value. So every
//! acknowledged value was written exactly once, which the check at the end relies on.

use std::time::Duration;

use tenure_proto::etcdserverpb::PutRequest;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::limits::PAUSE_AFTER_FAILURE;
use crate::load::{Names, Shared};
use crate::model::{Kind, News};
use crate::store::{key, revision};

/// Writes every `pause` until it is stopped.
pub(crate) async fn lane_loop(
    shared: Shared,
    lane: usize,
    mut node: usize,
    pause: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = interval(pause.max(Duration::from_millis(1)));
    // After a stall it goes on at its pace; a burst would be another load than the one that is shown.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let Some(number) = shared.ledger.write_begins(lane) else {
            let text = format!("lane {lane} of the writer rests: as many writes are remembered as fit; q checks them");
            shared.teller.tell(News::Said { kind: Kind::Write, text });
            stopping.wait_for(|stop| *stop).await.ok();
            return;
        };
        let request = PutRequest {
            key: key(&shared.names.write(lane, number)),
            value: key(&Names::value(lane, number)),
            ..PutRequest::default()
        };
        let sent = shared.clock.now();
        match shared.store.put(node, request).await {
            Ok(answer) => {
                let at = shared.clock.now();
                let latency = at.saturating_sub(sent);
                shared.ledger.write_acked(lane, number, revision(answer.header.as_ref()), latency);
                shared.teller.tell(News::WriteAcked { at, latency });
            }
            Err(_) => {
                shared.teller.tell(News::WriteUnanswered);
                node = shared.store.other(node);
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}
