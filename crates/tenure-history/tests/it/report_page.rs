//! The page of a run: nothing of a record breaks out of its place, nothing is lost on the way to the timeline.

use serde_json::Value;
use tenure_history::report::{
    self, Check, CheckOutcome, End, Fault, Figure, Gap, LeaderSeen, Liveness, Measured, Node, NodeState, Note,
    RunRecord, Sampler, Skipped, StateSeen,
};
use tenure_history::run::{Finding, Status};
use tenure_history::{Moment, NodeId};

use crate::made_up;

const DATA: &str = "<script type=\"application/json\" id=\"data\">";

fn ms(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

/// What stands in the page before the data of the timeline, and that data.
fn parts(page: &str) -> (&str, &str) {
    let (html, rest) = page.split_once(DATA).unwrap();
    (html, rest.split_once("</script>").unwrap().0)
}

fn timeline(page: &str) -> Value {
    serde_json::from_str(parts(page).1).unwrap()
}

/// A record with this text wherever a text can stand.
fn all_texts(text: &str) -> RunRecord {
    let own = || text.to_owned();
    let mut record = RunRecord::new(text, 1, text);
    (record.profile, record.program, record.length) = (own(), own(), ms(10_000));
    record.nodes = vec![Node::new(NodeId(1), text)];
    record.faults = vec![Fault::new(text, text, ms(1_000)..ms(2_000), text)];
    record.notes = vec![
        Note { at: ms(500), node: Some(NodeId(1)), text: own() },
        Note { at: ms(501), node: Some(NodeId(9)), text: own() },
    ];
    record.liveness = Some(Liveness { begin: ms(8_000), end: ms(9_000), bound: ms(5_000), text: own() });
    record.figures = vec![Figure { name: own(), value: own() }];
    record.skipped = vec![Skipped { what: own(), reason: own() }];
    let span = Some((ms(1_000), ms(1_500)));
    let (promise, detail, evidence) = (own(), own(), vec![own(), own()]);
    let outcomes = [
        CheckOutcome::Ok { counts: format!("{text}\n{text}\n{text}") },
        CheckOutcome::Violation { promise, detail, evidence, span },
        CheckOutcome::Undecided { detail: own(), span },
        CheckOutcome::Void { reason: own() },
        CheckOutcome::Skipped { reason: own() },
    ];
    record.checks = outcomes.into_iter().map(|outcome| Check { name: own(), promise: own(), outcome }).collect();
    let mut sampler = Sampler::default();
    for name in [own(), format!("{text} again")] {
        let workload = sampler.workload(&name, text);
        sampler.note(workload, Measured { called: ms(1), returned: Some(ms(2)), end: End::Acked, write: true });
    }
    record.take(&sampler, ms(0)..ms(10_000), std::time::Duration::from_millis(300));
    record
}

#[test]
fn no_text_of_a_run_breaks_out_of_its_place() {
    let void = |text: &str| RunRecord { void: Some(text.to_owned()), checks: Vec::new(), ..all_texts(text) };
    let evils =
        ["</pre></script><script>alert(1)</script>", "<!--<script>", "\"'><img src=x onerror=alert(1)>", "]]>&lt;"];
    for evil in evils {
        for (bad, good) in [(all_texts(evil), all_texts("text")), (void(evil), void("text"))] {
            let (bad, good) = (report::html(&bad), report::html(&good));
            let ((html, data), (usual, _)) = (parts(&bad), parts(&good));
            for sign in ["<", ">", "\"", "'", "<script", "</script", "<!--"] {
                let count = |page: &str| page.matches(sign).count();
                assert_eq!(count(html), count(usual), "{sign} of {evil}");
            }
            assert!(!data.contains(['<', '>', '&']), "{evil}");
            assert_eq!(timeline(&bad)["nodes"][0]["name"], evil, "it is shown as it is");
        }
    }
}

#[test]
fn the_page_loads_nothing() {
    let page = report::html(&made_up::record(3, 1));
    for mark in ["<link", "@import", " src=", "srcset", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!page.contains(mark), "{mark}");
    }
    let addresses: Vec<&str> = page.match_indices("://").map(|(at, _)| &page[at - 5..at + 20]).collect();
    assert!(addresses.iter().all(|address| address.contains("://www.w3.org/2000/")), "only SVG's name: {addresses:?}");
    let urls = page.match_indices("url(").all(|(at, _)| page[at..].starts_with("url(#paused)"));
    assert!(urls && page.contains("default-src 'none'"));
}

#[test]
fn the_same_record_gives_the_same_page() {
    let record = made_up::record(5, 2);
    let page = report::html(&record);
    assert_eq!(page, report::html(&RunRecord::from_json(&record.to_json().unwrap()).unwrap()));
    assert_eq!(page, report::html(&made_up::record(5, 2)));
}

#[test]
fn every_lane_has_its_data_and_nothing_is_lost() {
    let record = made_up::record(7, 6);
    let page = report::html(&record);
    let data = timeline(&page);
    let script = page.rsplit_once("<script>").unwrap().1;
    for key in data.as_object().unwrap().keys() {
        assert!(script.contains(&format!("data.{key}")), "the script does not draw {key}");
    }
    let list = |of: &str| data[of].as_array().unwrap().len();
    assert_eq!(list("nodes"), record.nodes.len());
    assert_eq!(
        (list("gaps"), list("notes"), list("kinds")),
        (record.gaps.len(), record.notes.len(), record.kinds.len())
    );
    assert_eq!(list("marks"), 2, "a violation and an undecided check");
    assert!(data["liveness"].is_array());
    let faults = data["kinds"].as_array().unwrap().iter().map(|kind| kind["faults"].as_array().unwrap().len());
    assert_eq!(faults.sum::<usize>(), record.faults.len());
    for state in ["up", "down", "paused"] {
        assert!(parts(&page).1.contains(&format!(",\"{state}\"]")), "no node is {state}");
    }
    let series = data["series"].as_array().unwrap();
    assert_eq!(series.len(), record.workloads.len() + 1, "all together, and each");
    let sum = |one: &Value, column: &str| one[column].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    let totals = record.totals();
    let ends =
        [("acked", totals.acked), ("refused", totals.refused), ("failed", totals.failed), ("unknown", totals.unknown)];
    for (column, total) in ends {
        assert_eq!(sum(&series[0], column), total);
        assert_eq!(series[1..].iter().map(|one| sum(one, column)).sum::<u64>(), total);
    }
}

#[test]
fn a_leader_leads_until_another_does_or_it_is_gone() {
    let mut record = RunRecord::new("", 1, "");
    record.length = ms(10_000);
    record.nodes = vec![Node::new(NodeId(1), "a"), Node::new(NodeId(2), "b")];
    let seen = |at, node: Option<u32>, term| LeaderSeen { at: ms(at), node: node.map(NodeId), term };
    record.leaders = vec![
        seen(100, Some(1), 1),
        seen(200, Some(1), 1),
        seen(1_000, Some(2), 2),
        seen(3_000, None, 2),
        seen(4_000, Some(1), 3),
    ];
    let state = |at, state| StateSeen { at: ms(at), node: NodeId(1), state };
    record.states = vec![
        state(0, NodeState::Up),
        state(5_000, NodeState::Paused),
        state(6_000, NodeState::Up),
        state(7_000, NodeState::Down),
    ];
    let nodes = &timeline(&report::html(&record))["nodes"];
    assert_eq!(nodes[0]["leads"].to_string(), "[[100,1000,1],[4000,7000,3]]");
    assert_eq!(nodes[1]["leads"].to_string(), "[[1000,3000,2]]");
    let states = "[[0,5000,\"up\"],[5000,6000,\"paused\"],[6000,7000,\"up\"],[7000,10000,\"down\"]]";
    assert_eq!(nodes[0]["states"].to_string(), states);
    assert_eq!(nodes[1]["states"].to_string(), "[[0,10000,\"up\"]]", "nothing is known of it");
}

#[test]
fn the_verdicts_read_without_a_script() {
    let page = report::html(&made_up::record(7, 1));
    let html = parts(&page).0;
    for text in [
        "<h1>Violated</h1>",
        "stale read",
        "→ @48190 reg/3 = 8790",
        "make chaos PROFILE=standard SEED=7",
        "kill leader",
    ] {
        assert!(html.contains(text), "{text}");
    }
    let page = report::html(&made_up::void());
    assert!(parts(&page).0.contains("This run proves nothing: 0 of at least 500 operations succeeded"));
    assert!(parts(&report::html(&RunRecord::default())).0.contains("no checker was asked"));
}

#[test]
fn the_page_stays_small_in_long_runs() {
    let standard = report::html(&made_up::record(7, 20));
    assert!(standard.len() < 600_000, "{}", standard.len());

    let (hours, faults) = (6, 5_400);
    let mut record = RunRecord::new("soak", 1, "make chaos");
    record.length = ms(hours * 3_600_000);
    record.nodes = (0..5).map(|id| Node::new(NodeId(id), "n")).collect();
    let mut sampler = Sampler::default();
    for (place, name) in (0..).zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        let workload = sampler.workload(name, "");
        for second in 0..hours * 3_600 {
            let called = ms(second * 1_000 + place * 125);
            let returned = Some(ms(second * 1_000 + place * 125 + second % 100));
            sampler.note(workload, Measured { called, returned, end: End::Acked, write: true });
        }
    }
    for n in 0..faults {
        let (at, node) = (n * 4_000, NodeId((n % 5) as u32));
        record.faults.push(Fault::new("kill one", "n3", ms(at)..ms(at + 2_000), "SIGKILL, then started again"));
        record.states.push(StateSeen { at: ms(at), node, state: NodeState::Down });
        record.states.push(StateSeen { at: ms(at + 2_000), node, state: NodeState::Up });
        record.leaders.push(LeaderSeen { at: ms(at + 1_000), node: Some(node), term: n });
    }
    record.take(&sampler, ms(0)..record.length, std::time::Duration::from_millis(300));
    let soak = report::html(&record);
    assert!(soak.len() < 1_500_000, "{}", soak.len());
    assert!(timeline(&soak)["series"][0]["acked"].as_array().unwrap().len() <= 1_500);
}

#[test]
fn a_record_of_nonsense_still_has_a_page() {
    let mut record = made_up::record(1, 1);
    for (at, workload) in record.workloads.iter_mut().enumerate() {
        workload.samples.iter_mut().for_each(|sample| sample.at = Moment(sample.at.0 << (at * 4)));
    }
    record.sample_period = Moment(0);
    record.faults.push(Fault::new("k", "t", Moment::NEVER..Moment(0), ""));
    record.gaps.push(Gap { begin: Moment::NEVER, end: Moment(5), faults: vec![usize::MAX] });
    record.leaders.push(LeaderSeen { at: Moment::NEVER, node: Some(NodeId(77)), term: u64::MAX });
    record.states.push(StateSeen { at: Moment(1), node: NodeId(1), state: NodeState::Up });
    record.liveness = Some(Liveness { begin: Moment::NEVER, end: Moment(0), bound: Moment(0), text: String::new() });
    for length in [Moment(0), Moment(1), Moment::NEVER] {
        record.length = length;
        let page = report::html(&record);
        assert!(timeline(&page)["series"][0]["acked"].as_array().unwrap().len() <= 1_500);
        assert!(page.len() < 1_000_000);
    }
}

#[test]
fn findings_become_rows_with_their_place() {
    let finding = |status, summary: &str, evidence: &[&str]| Finding {
        checker: "watch (n1)".into(),
        status,
        summary: summary.into(),
        evidence: evidence.iter().map(ToString::to_string).collect(),
    };
    let outcome = |finding: &Finding| Check::of_finding("once", finding).outcome;
    let lines = ["2.000000s message", "1.500000s message"];
    let violation = CheckOutcome::Violation {
        promise: "ordered".into(),
        detail: "3: after 4".into(),
        evidence: lines.map(str::to_owned).to_vec(),
        span: Some((ms(1_500), ms(2_000))),
    };
    assert_eq!(outcome(&finding(Status::Violation, "ordered: 3: after 4", &lines)), violation);
    let undecided = CheckOutcome::Undecided { detail: "at 1.000000s, lost".into(), span: Some((ms(1_000), ms(1_000))) };
    assert_eq!(outcome(&finding(Status::Undecided, "at 1.000000s, lost", &[])), undecided);
    assert_eq!(outcome(&finding(Status::Ok, "9", &[])), CheckOutcome::Ok { counts: "9".into() });
    assert_eq!(outcome(&finding(Status::Unchecked, "no", &[])), CheckOutcome::Skipped { reason: "no".into() });
}
