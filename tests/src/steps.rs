//! Compatibility scenarios: the files under `scenarios/`, and what they say a right answer looks like.
//!
//! A scenario is told once for all clients. What it expects is written from a real etcd's answers, so that two servers
//! that fail alike, or a runner that does nothing, are not taken for agreement.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
const SKIPS: &str = "skips.json";

/// One file of `scenarios/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    #[serde(skip)]
    pub name: String,
    pub about: String,
    /// The clients that it is for; all of them if it names none.
    #[serde(default)]
    pub clients: Vec<String>,
    /// A scenario that steps cannot tell, built into the runners.
    #[serde(default)]
    program: String,
    #[serde(default)]
    steps: Vec<Step>,
}

/// A step as the runners see it, and what its answer must be.
#[derive(Debug)]
struct Step {
    request: Map<String, Value>,
    expect: Option<Value>,
    refused: Option<String>,
    may_refuse: Option<String>,
}

/// What is known not to be there, and why: `scenarios/skips.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skips {
    /// By client, then feature: what the client cannot express.
    pub unable: BTreeMap<String, BTreeMap<String, String>>,
    /// What tenured does not have yet.
    pub missing: Vec<Missing>,
    /// Where tenured answers differently on purpose.
    pub departures: Vec<Departure>,
}

/// Scenarios that end, on tenured, with UNIMPLEMENTED.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    pub clients: Vec<String>,
    pub scenarios: Vec<String>,
    pub why: String,
}

/// One answer that is different, to the letter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    pub clients: Vec<String>,
    pub scenario: String,
    /// Counted from 1.
    pub step: usize,
    pub etcd: Value,
    pub tenured: Value,
    pub why: String,
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut request = Map::deserialize(deserializer)?;
        let expect = request.remove("expect");
        let mut text = |name| request.remove(name).and_then(|value| value.as_str().map(ToOwned::to_owned));
        let (refused, may_refuse) = (text("refused"), text("may_refuse"));
        request.values_mut().for_each(expand);
        Ok(Self { request, expect, refused, may_refuse })
    }
}

/// What would be too long to write, anywhere in a step: `{"repeat": "x", "times": 3}` is xxx, and `{"puts": 2, "key": "k"}`,
/// with whatever else puts take, are puts of k0 and k1.
fn expand(value: &mut Value) {
    match value {
        Value::Array(items) => return items.iter_mut().for_each(expand),
        Value::Object(fields) => fields.values_mut().for_each(expand),
        _ => return,
    }
    let count = |name: &str| value[name].as_u64().and_then(|count| usize::try_from(count).ok());
    if let (Some(text), Some(times)) = (value["repeat"].as_str(), count("times")) {
        *value = json!(text.repeat(times));
    } else if let Some(puts) = count("puts") {
        let put = |at| {
            let mut put = value.clone();
            put.as_object_mut().map(|fields| fields.remove("puts"));
            put["key"] = json!(format!("{}{at}", value["key"].as_str().unwrap_or_default()));
            put["do"] = json!("put");
            put
        };
        *value = (0..puts).map(put).collect();
    }
}

impl Story {
    /// All scenarios, by name.
    pub fn all() -> Result<Vec<Self>> {
        let mut stories = Vec::new();
        for entry in fs::read_dir(FOLDER)? {
            let path = entry?.path();
            let is_story = path.extension().is_some_and(|ending| ending == "json") && !path.ends_with(SKIPS);
            if is_story {
                stories.push(Self::read(&path)?);
            }
        }
        stories.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(stories)
    }

    fn read(path: &Path) -> Result<Self> {
        let mut story: Self = read(path)?;
        story.name = path.file_stem().context("a file name")?.to_string_lossy().into_owned();
        ensure!(story.steps.is_empty() != story.program.is_empty(), "{} has steps or a program", story.name);
        Ok(story)
    }

    /// Whether the scenario is for this client.
    pub fn is_for(&self, client: &str) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|one| one == client)
    }

    /// What a runner is sent.
    pub fn request(&self, base: i64, endpoints: &[String]) -> Value {
        let mut request = json!({ "scenario": self.name, "base": base, "endpoints": endpoints });
        if self.program.is_empty() {
            request["steps"] = self.steps.iter().map(|step| Value::from(step.request.clone())).collect();
        } else {
            request["program"] = json!(self.program);
        }
        request
    }

    /// How many answers there must be; programs print as many as they like.
    pub fn steps(&self) -> Option<usize> {
        self.program.is_empty().then_some(self.steps.len())
    }

    /// A step as its file tells it, for reports.
    pub fn shown(&self, at: usize) -> String {
        let step = self.steps.get(at).map(|step| Value::from(step.request.clone()).to_string());
        step.unwrap_or_else(|| format!("the program {}", self.program)).chars().take(400).collect()
    }

    /// What is wrong with a step's line by what the scenario expects. A client that cannot show a field is not held to it,
    /// unless `strict`.
    pub fn fault(&self, at: usize, line: &Value, strict: bool) -> Option<String> {
        if !line["fault"].is_null() {
            return Some(format!("the runner failed: {}", line["fault"]));
        }
        let Some(step) = self.steps.get(at) else {
            let is_answer = !line["answer"].is_null();
            return (!is_answer).then(|| "a program's step failed".to_owned());
        };
        if !line["skip"].is_null() {
            return None;
        }
        let error = line["error"]["text"].as_str();
        match (&step.refused, &step.may_refuse, error) {
            (Some(text), _, Some(error)) | (None, Some(text), Some(error)) => {
                (!error.contains(text.as_str())).then(|| format!("refused without the words {text:?}"))
            }
            (Some(text), _, None) => Some(format!("not refused with {text:?}")),
            (None, None, Some(_)) => Some("refused".to_owned()),
            (None, _, None) => {
                let expected = step.expect.as_ref()?;
                difference(expected, &line["answer"], strict).map(|what| format!("not as expected: {what}"))
            }
        }
    }
}

/// Where `actual` is not what `expected` says; objects may have more than is expected of them.
fn difference(expected: &Value, actual: &Value, strict: bool) -> Option<String> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => expected.iter().find_map(|(name, value)| {
            let found = actual.get(name);
            match found {
                None => strict.then(|| format!("there is no {name}")),
                Some(found) => difference(value, found, strict).map(|what| format!("{name}: {what}")),
            }
        }),
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            expected.iter().zip(actual).find_map(|(expected, actual)| difference(expected, actual, strict))
        }
        _ => (expected != actual).then(|| format!("{actual} is not {expected}")),
    }
}

impl Skips {
    /// Reads the list and makes sure that it names clients and scenarios that exist.
    pub fn read(stories: &[Story], clients: &[&str]) -> Result<Self> {
        let skips: Self = read(&Path::new(FOLDER).join(SKIPS))?;
        let names: BTreeSet<&str> = stories.iter().map(|story| story.name.as_str()).collect();
        let scenarios = skips.missing.iter().flat_map(|one| &one.scenarios);
        for name in scenarios.chain(skips.departures.iter().map(|one| &one.scenario)) {
            ensure!(names.contains(name.as_str()), "{SKIPS} names the scenario {name}, which is not there");
        }
        let missing = skips.missing.iter().flat_map(|one| &one.clients);
        let departures = skips.departures.iter().flat_map(|one| &one.clients);
        for client in skips.unable.keys().chain(missing).chain(departures) {
            ensure!(clients.contains(&client.as_str()), "{SKIPS} names the client {client}, which is not there");
        }
        Ok(skips)
    }

    /// Why tenured is expected not to have what this client needs in this scenario.
    pub fn missing(&self, client: &str, story: &str) -> Option<&str> {
        let found = self.missing.iter().find(|one| {
            one.clients.iter().any(|name| name == client) && one.scenarios.iter().any(|name| name == story)
        });
        found.map(|one| one.why.as_str())
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}
