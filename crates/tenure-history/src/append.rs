//! Is every acked append to a list in it exactly once, in the order of the revisions?
//!
//! The workload: clients append tokens that are never used twice to the value of one key, by a transaction that compares the
//! key's modification revision with what they read. A read shows the whole past of the list in one value, so what was lost,
//! doubled, swapped or brought back stays visible for ever: no search is needed, and a violation is a few lines.

use core::fmt;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, Moment, Revision};
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "append";
/// Tokens shown around the place where two lists differ.
const TOKENS_SHOWN: usize = 4;

/// One append, tried until it was acked, was given up, or may have happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// Which list.
    pub list: String,
    /// Who.
    pub client: ClientId,
    /// What: no other append has the same.
    pub token: String,
    /// Just before the first transaction that would have appended it was sent.
    pub called: Moment,
    /// When the client knew how it ended, or gave up.
    pub returned: Moment,
    /// How it ended.
    pub outcome: Appended,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Appended {
    /// It was acked and made this revision.
    Acked(Revision),
    /// It certainly did not happen.
    Failed,
    /// It may have happened, or may still happen.
    Unknown,
}

/// What a linearizable read of a list showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Which list.
    pub list: String,
    /// Who.
    pub client: ClientId,
    /// Just before it was sent.
    pub called: Moment,
    /// Just after its answer.
    pub returned: Moment,
    /// The revision of the answer's header.
    pub revision: Revision,
    /// The tokens, oldest first.
    pub tokens: Vec<String>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lists.
    pub lists: usize,
    /// Acked appends.
    pub acked: usize,
    /// Appends of unknown outcome.
    pub unknown: usize,
    /// Those of them that were seen.
    pub unknown_seen: usize,
    /// Reads.
    pub looks: usize,
    /// Acked appends that no read can have shown, because none was answered at or after their revision.
    pub unread: usize,
}

type Wrong = Result<(), Box<Violation>>;

/// Checks all lists of a run. What no read covers is not checked, so a run ends with a read of each list.
pub fn check(appends: &[Append], looks: &[Look]) -> Verdict<Counts> {
    let mut lists: BTreeMap<&str, List<'_>> = BTreeMap::new();
    for append in appends {
        lists.entry(&append.list).or_default().appends.push(append);
    }
    for look in looks {
        lists.entry(&look.list).or_default().looks.push(look);
    }
    let mut counts = Counts { lists: lists.len(), looks: looks.len(), ..Counts::default() };
    for list in lists.values_mut() {
        if let Err(violation) = list.check(&mut counts) {
            return Verdict::Violation(violation);
        }
    }
    Verdict::Ok(counts)
}

#[derive(Default)]
struct List<'a> {
    appends: Vec<&'a Append>,
    looks: Vec<&'a Look>,
}

impl<'a> List<'a> {
    fn check(&mut self, counts: &mut Counts) -> Wrong {
        self.looks.sort_by_key(|look| (look.revision, look.tokens.len()));
        self.one_past()?;
        let by_token = self.by_token()?;
        let longest: &[String] = self.looks.last().map_or(&[], |look| &look.tokens);
        let mut place: HashMap<&str, usize> = HashMap::new();
        for (at, token) in longest.iter().enumerate() {
            if place.insert(token, at).is_some() {
                let lines = self.lines_about(token, by_token.get(&token[..]).copied());
                return wrong("appended once", format!("{token} stands in the list twice"), lines);
            }
        }
        self.known_tokens(longest, &by_token)?;
        self.revision_order(&place)?;
        self.real_time(&place)?;
        let last = self.looks.last().map_or(Revision(0), |look| look.revision);
        for append in &self.appends {
            match append.outcome {
                Appended::Acked(revision) => {
                    counts.acked += 1;
                    counts.unread += usize::from(revision > last);
                }
                Appended::Unknown => {
                    counts.unknown += 1;
                    counts.unknown_seen += usize::from(place.contains_key(&append.token[..]));
                }
                Appended::Failed => {}
            }
        }
        Ok(())
    }

    /// Each list is the beginning of every later one.
    fn one_past(&self) -> Wrong {
        for pair in self.looks.windows(2) {
            let (earlier, later) = (pair[0], pair[1]);
            let same = earlier.tokens.iter().zip(&later.tokens).take_while(|(one, other)| one == other).count();
            if same < earlier.tokens.len() {
                let detail = format!("from token {same} on the lists differ");
                return wrong("one past", detail, vec![show(earlier, same), show(later, same)]);
            }
        }
        Ok(())
    }

    fn by_token(&self) -> Result<HashMap<&'a str, &'a Append>, Box<Violation>> {
        let mut by_token: HashMap<&str, &Append> = HashMap::new();
        for append in &self.appends {
            if let Some(other) = by_token.insert(&append.token, append) {
                let detail = format!("the run appended {} twice: nothing can be said", append.token);
                return Err(violation("history is sound", detail, vec![other.to_string(), append.to_string()]));
            }
        }
        Ok(by_token)
    }

    fn known_tokens(&self, longest: &[String], by_token: &HashMap<&str, &Append>) -> Wrong {
        for (at, token) in longest.iter().enumerate() {
            let append = by_token.get(&token[..]).copied();
            let first = self.looks.iter().find(|look| look.tokens.len() > at);
            let early = |append: &Append| first.is_some_and(|look| look.returned < append.called);
            let why = match append {
                None => "nobody appended it",
                Some(append) if append.outcome == Appended::Failed => "it certainly did not happen",
                Some(append) if early(append) => "it was read before it was appended",
                Some(_) => continue,
            };
            return wrong("only what was appended", format!("{token}: {why}"), self.lines_about(token, append));
        }
        Ok(())
    }

    /// Acked appends stand in the order of their revisions, in every read from their revision on and in none before.
    fn revision_order(&self, place: &HashMap<&str, usize>) -> Wrong {
        let mut acked: Vec<(Revision, &Append)> =
            self.appends.iter().filter_map(|append| Some((append.revision()?, *append))).collect();
        acked.sort_by_key(|(revision, _)| *revision);
        for (earlier, later) in acked.iter().zip(acked.iter().skip(1)) {
            let swapped = place.get(&earlier.1.token[..]) > place.get(&later.1.token[..]);
            if earlier.0 == later.0 || (swapped && place.contains_key(&later.1.token[..])) {
                let detail = format!("{} and {} against their revisions", earlier.1.token, later.1.token);
                let lines = [earlier, later].map(|(_, append)| append.to_string()).to_vec();
                return wrong("in the order of the revisions", detail, lines);
            }
        }
        for (revision, append) in acked {
            let from = self.looks.partition_point(|look| look.revision < revision);
            let at = place.get(&append.token[..]);
            let missing = self.looks[from..].iter().find(|look| at.is_none_or(|at| look.tokens.len() <= *at));
            let early = self.looks[..from].iter().find(|look| at.is_some_and(|at| look.tokens.len() > *at));
            let (promise, look) = match (missing, early) {
                (Some(look), _) => ("nothing acked is lost", look),
                (None, Some(look)) => ("nothing before its revision", look),
                (None, None) => continue,
            };
            let detail = format!("{} was acked at revision {revision}", append.token);
            return wrong(promise, detail, vec![append.to_string(), show(look, look.tokens.len())]);
        }
        Ok(())
    }

    /// A read that was called after an ack shows what was acked, whatever the revisions say.
    fn real_time(&self, place: &HashMap<&str, usize>) -> Wrong {
        let mut acked: Vec<&Append> = self.appends.iter().copied().filter(|at| at.revision().is_some()).collect();
        acked.sort_by_key(|append| append.returned);
        let mut looks = self.looks.clone();
        looks.sort_by_key(|look| look.called);
        let mut acked = acked.into_iter().peekable();
        let mut furthest: Option<(usize, &Append)> = None;
        for look in looks {
            while let Some(append) = acked.next_if(|append| append.returned < look.called) {
                let at = place.get(&append.token[..]).copied().unwrap_or(usize::MAX);
                furthest = furthest.filter(|(far, _)| *far >= at).or(Some((at, append)));
            }
            if let Some((at, append)) = furthest
                && at >= look.tokens.len()
            {
                let detail = format!("{} had been acked before the read was called", append.token);
                return wrong("stale read", detail, vec![append.to_string(), show(look, look.tokens.len())]);
            }
        }
        Ok(())
    }

    fn lines_about(&self, token: &str, append: Option<&Append>) -> Vec<String> {
        let at = |look: &Look| look.tokens.iter().rposition(|shown| shown == token);
        let look = self.looks.iter().find_map(|look| Some(show(look, at(look)?)));
        append.map(ToString::to_string).into_iter().chain(look).collect()
    }
}

impl Append {
    fn revision(&self) -> Option<Revision> {
        match self.outcome {
            Appended::Acked(revision) => Some(revision),
            Appended::Failed | Appended::Unknown => None,
        }
    }
}

fn wrong(promise: &'static str, detail: String, evidence: Vec<String>) -> Wrong {
    Err(violation(promise, detail, evidence))
}

fn violation(promise: &'static str, detail: String, evidence: Vec<String>) -> Box<Violation> {
    Box::new(Violation { checker: CHECKER, promise, detail, evidence })
}

/// A read with the tokens around a place.
fn show(look: &Look, at: usize) -> String {
    let from = at.saturating_sub(TOKENS_SHOWN).min(look.tokens.len());
    let to = at.saturating_add(TOKENS_SHOWN).min(look.tokens.len());
    let before = if from > 0 { "… " } else { "" };
    let after = if to < look.tokens.len() { " …" } else { "" };
    let Look { list, client, called, returned, revision, tokens } = look;
    format!(
        "client {client} {called} – {returned} read {list} @{revision}, {} tokens: {before}{}{after}",
        tokens.len(),
        tokens[from..to].join(" ")
    )
}

impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Append { list, client, token, called, returned, outcome } = self;
        write!(f, "client {client} {called} – {returned} appended {token} to {list}: ")?;
        match outcome {
            Appended::Acked(revision) => write!(f, "acked @{revision}"),
            Appended::Failed => f.write_str("failed"),
            Appended::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { lists, acked, unknown, unknown_seen, looks, unread } = self;
        write!(
            f,
            "{lists} lists, {acked} appends acked ({unread} never read back), {unknown} unknown ({unknown_seen} of them \
             seen), {looks} reads"
        )
    }
}
