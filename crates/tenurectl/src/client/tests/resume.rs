//! Where a watch goes on after its stream broke.

use tenure_proto::etcdserverpb as pb;
use tenure_proto::mvccpb::{Event, KeyValue};
use tonic::Status;

use super::client;
use super::fake::{Fake, Says};
use crate::client::{Update, WatchSpec, Watcher};
use crate::ids::Revision;

fn created(revision: i64) -> Result<pb::WatchResponse, Status> {
    Ok(pb::WatchResponse { created: true, ..progress(revision).expect("a message") })
}

fn progress(revision: i64) -> Result<pb::WatchResponse, Status> {
    let header = Some(pb::ResponseHeader { revision, ..Default::default() });
    Ok(pb::WatchResponse { header, ..Default::default() })
}

fn events(revisions: &[i64]) -> Result<pb::WatchResponse, Status> {
    let event = |revision: &i64| Event {
        kv: Some(KeyValue { mod_revision: *revision, ..Default::default() }),
        ..Event::default()
    };
    Ok(pb::WatchResponse { events: revisions.iter().map(event).collect(), ..Default::default() })
}

fn cancelled(compact_revision: i64, reason: &str) -> Result<pb::WatchResponse, Status> {
    let cancel_reason = reason.to_owned();
    Ok(pb::WatchResponse { canceled: true, compact_revision, cancel_reason, ..Default::default() })
}

fn broken() -> Result<pb::WatchResponse, Status> {
    Err(Status::unavailable("etcdserver: no leader"))
}

/// Everything that a watch at these servers tells, in a line each, until it fails or has told so many things.
async fn story(start: Option<i64>, count: usize, watches: Vec<Says>) -> (Vec<String>, Vec<i64>) {
    let server = Fake::watched(watches);
    let client = client(&[&server]);
    let spec = WatchSpec { key: "k".into(), start: start.map(Revision), ..WatchSpec::default() };
    let mut watcher = Watcher::new(&client, spec);
    let mut told = Vec::new();
    while told.len() < count {
        let line = match watcher.next().await {
            Ok(Update::Started { from, .. }) => format!("started {from}"),
            Ok(Update::Resumed { from, .. }) => format!("resumed {from}"),
            Ok(Update::Lost(setback)) => format!("lost: {}", setback.reason),
            Ok(Update::Progress(revision)) => format!("progress {revision}"),
            Ok(Update::Events(events)) => {
                let revisions =
                    events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision.to_string());
                format!("events {}", revisions.collect::<Vec<_>>().join(" "))
            }
            Err(error) => {
                told.push(format!("failed: {error}"));
                break;
            }
        };
        told.push(line);
    }
    (told, server.starts())
}

#[tokio::test]
async fn a_watch_goes_on_after_the_last_revision_that_it_told() {
    let (told, starts) = story(
        None,
        7,
        vec![
            vec![created(5), events(&[6, 7, 7]), events(&[9]), broken()],
            vec![created(12), events(&[9, 10, 12])],
            vec![created(12)],
        ],
    )
    .await;
    assert_eq!(
        told,
        [
            "started 6",
            "events 6 7 7",
            "events 9",
            "lost: no leader",
            "resumed 10",
            "events 10 12",
            "lost: the server ended the watch"
        ]
    );
    assert_eq!(starts, [0, 10], "the first watch is of what comes from now on");
}

#[tokio::test]
async fn a_watch_that_has_told_nothing_goes_on_where_it_began() {
    let (told, starts) = story(None, 3, vec![vec![created(5), broken()], vec![created(8)]]).await;
    assert_eq!(told, ["started 6", "lost: no leader", "resumed 6"]);
    assert_eq!(starts, [0, 6]);
    let (_, starts) = story(Some(3), 3, vec![vec![created(5), broken()], vec![created(8)]]).await;
    assert_eq!(starts, [3, 3]);
}

#[tokio::test]
async fn progress_moves_the_place_to_go_on_and_never_moves_it_back() {
    let quiet = vec![created(5), progress(20), broken()];
    let (told, starts) = story(None, 4, vec![quiet, vec![created(25)]]).await;
    assert_eq!(told, ["started 6", "progress 20", "lost: no leader", "resumed 21"]);
    assert_eq!(starts, [0, 21]);
    let ahead = vec![created(5), progress(20), broken()];
    let (_, starts) = story(Some(100), 4, vec![ahead, vec![created(25)]]).await;
    assert_eq!(starts, [100, 100], "a watch of the future");
}

#[tokio::test]
async fn compaction_is_an_error_and_never_a_gap() {
    let (told, starts) = story(None, 9, vec![vec![created(5), broken()], vec![created(50), cancelled(40, "")]]).await;
    assert_eq!(told[..3], ["started 6", "lost: no leader", "resumed 6"]);
    assert_eq!(told[3..], ["failed: the history that the watch needs has been compacted"]);
    assert_eq!(starts, [0, 6]);
}

#[tokio::test]
async fn a_refused_watch_says_why() {
    let refused = Ok(pb::WatchResponse { created: true, ..cancelled(0, "mvcc: watcher range is empty").expect("one") });
    let (told, _) = story(None, 9, vec![vec![refused]]).await;
    assert_eq!(told, ["failed: the server refuses the watch: mvcc: watcher range is empty"]);
    let denied = Err(Status::permission_denied("etcdserver: permission denied"));
    let (told, _) = story(None, 9, vec![vec![created(5), denied]]).await;
    assert_eq!(told, ["started 6", "failed: permission denied"]);
}

#[tokio::test]
async fn a_watch_goes_on_at_another_endpoint() {
    let first = Fake::watched([vec![created(5), events(&[6])]]);
    let second = Fake::watched([vec![created(7), events(&[7])]]);
    let client = client(&[&first, &second]);
    let mut watcher = Watcher::new(&client, WatchSpec::default());
    let mut lost = 0;
    loop {
        match watcher.next().await.expect("a watch that goes on") {
            Update::Lost(at) => {
                assert_eq!(at.endpoint, first.endpoint);
                lost += 1;
            }
            Update::Resumed { endpoint, from } => {
                assert_eq!((endpoint, from), (second.endpoint.clone(), Revision(7)));
                break;
            }
            _ => {}
        }
    }
    assert_eq!((lost, first.starts(), second.starts()), (1, vec![0], vec![7]));
    let Ok(Update::Events(events)) = watcher.next().await else { panic!("no events") };
    assert_eq!(events.len(), 1);
}
