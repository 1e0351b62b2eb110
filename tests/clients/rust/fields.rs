//! A step's fields, each taken once: what is left at the end is what this client cannot express.

use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// The feature of a step that the client does not have.
#[derive(Debug)]
pub(crate) struct Skipped(pub String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skip {}", self.0)
    }
}

impl std::error::Error for Skipped {}

/// A revision as a scenario writes it: a number as it is, or "+N" from the scenario's first revision on.
#[derive(Clone, Copy)]
pub(crate) enum Revision {
    Absolute(i64),
    Relative(i64),
}

/// A lease as a scenario writes it.
pub(crate) enum LeaseName {
    Name(String),
    Id(i64),
}

pub(crate) struct Fields {
    kind: String,
    left: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(mut left: Map<String, Value>) -> Self {
        let kind = left.remove("do").and_then(|kind| kind.as_str().map(ToOwned::to_owned)).unwrap_or_default();
        Self { kind, left }
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.left.get(name).and_then(Value::as_str)
    }

    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.left.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("{name} is {other}"),
        }
    }

    pub(crate) fn need(&mut self, name: &str) -> Result<String> {
        self.text(name)?.with_context(|| format!("{} has no {name}", self.kind))
    }

    /// A key or value: text, or bytes written as hex:…
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.text(name)?.map(|text| bytes(&text)).transpose()
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        self.left.remove(name).is_some_and(|value| value == Value::Bool(true))
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<i64>> {
        let value = self.left.remove(name);
        value.map(|value| value.as_i64().with_context(|| format!("{name} is {value}"))).transpose()
    }

    pub(crate) fn revision(&mut self, name: &str) -> Result<Option<Revision>> {
        self.left.remove(name).map(|value| revision(&value)).transpose()
    }

    pub(crate) fn lease(&mut self, name: &str) -> Option<LeaseName> {
        self.left.remove(name).map(|value| lease(&value))
    }

    /// Refuses what was not taken.
    pub(crate) fn finish(self) -> Result<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(field) => Err(Skipped(format!("{}.{field}", self.kind)).into()),
        }
    }
}

pub(crate) fn bytes(text: &str) -> Result<Vec<u8>> {
    let Some(digits) = text.strip_prefix("hex:") else { return Ok(text.as_bytes().to_vec()) };
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

pub(crate) fn revision(value: &Value) -> Result<Revision> {
    match value {
        Value::String(text) => Ok(Revision::Relative(text.parse()?)),
        other => Ok(Revision::Absolute(other.as_i64().with_context(|| format!("{other} is no revision"))?)),
    }
}

pub(crate) fn lease(value: &Value) -> LeaseName {
    match value {
        Value::String(name) => LeaseName::Name(name.clone()),
        other => LeaseName::Id(other.as_i64().unwrap_or_default()),
    }
}
