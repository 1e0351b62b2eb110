//! From a command line and an environment to the values of flags, in the grammar of etcd (which is Go's flag package).
//!
//! `--x=v`, `--x v` and the same with one dash; a switch alone means true and takes a value only after `=`; the last
//! of several wins; a flag beats `TENURE_X`, which beats `ETCD_X`; an empty variable counts as unset. No general
//! command-line library reads this grammar (single dashes, switches with values), and the table needs only this much.
//!
//! What the values mean is not decided here, except for the flags that set nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{ConfigError, Origin, Source};
use super::table::{self, Flag, Role};
use super::values::parse_bool;

/// The prefixes of environment variables, the strongest first.
const PREFIXES: [&str; 2] = ["TENURE_", "ETCD_"];

/// Variables under our prefix that the cluster scripts read, and that the server they start inherits.
const SCRIPT_VARIABLES: [&str; 4] = ["TENURE_CLUSTER_DIR", "TENURE_NODES", "TENURE_BASE_PORT", "TENURE_FAULTS"];

/// How far a name may be from a flag's to be taken for a misspelling of it, and how long it must be for each edit.
const SUGGESTION_EDITS_MAX: usize = 3;
const SUGGESTION_BYTES_PER_EDIT: usize = 3;

/// What a command line asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    Serve(Values),
    Help,
    Version,
}

/// The flags that were set, and what is to be said about them.
#[derive(Debug, Default)]
pub(super) struct Values {
    set: BTreeMap<&'static str, (String, Origin)>,
    pub(super) warnings: Vec<String>,
}

/// The value of one flag, set or default.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pub(super) text: &'a str,
    pub(super) source: Source,
}

impl Values {
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// The flag's value; its default, if it was not set.
    pub(super) fn get(&self, name: &str) -> Value<'_> {
        let flag = table::find(name).expect("invariant: only names in the table are asked for");
        match self.set.get(flag.name) {
            Some((text, origin)) => Value { text, source: Source { flag: flag.name, origin: origin.clone() } },
            None => Value { text: flag.default(), source: Source { flag: flag.name, origin: Origin::Default } },
        }
    }

    fn put(&mut self, flag: &'static Flag, text: String, origin: Origin) -> Result<(), ConfigError> {
        let text = if flag.placeholder.is_none() {
            let source_flag = Source { flag: flag.name, origin: origin.clone() };
            match parse_bool(&text) {
                Ok(value) => value.to_string(),
                Err(reason) => return Err(ConfigError::Value { source_flag, value: text, reason }),
            }
        } else {
            text
        };
        self.set.insert(flag.name, (text, origin));
        Ok(())
    }

    /// Deals with the flags that set nothing: an error, a warning, or silence when they ask for nothing special.
    fn judge_foreign_flags(&mut self) -> Result<(), ConfigError> {
        for (name, (text, origin)) in &self.set {
            let Some(flag) = table::find(name).filter(|flag| !flag.is_neutral(text)) else { continue };
            let source = Source { flag: flag.name, origin: origin.clone() };
            match flag.role {
                Role::Used => {}
                Role::NoEffect => self.warnings.push(format!("{source} has no effect: {}", flag.help)),
                Role::Later => {
                    self.warnings.push(format!("{source} has no effect yet: {} comes with a later version", flag.help));
                }
                Role::Refused => {
                    return Err(ConfigError::Unsupported { what: source.to_string(), advice: flag.help.to_owned() });
                }
            }
        }
        Ok(())
    }
}

/// Reads `args` (without the program's name) and those of `variables` that are meant for the server.
pub(super) fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Parsed, ConfigError> {
    let args = args.into_iter().map(utf8).collect::<Result<Vec<_>, _>>()?;
    let mut values = Values::default();
    if read_arguments(&args, &mut values)? {
        return Ok(Parsed::Help);
    }
    if values.get("version").text == "true" {
        return Ok(Parsed::Version);
    }
    read_environment(variables, &mut values)?;
    values.judge_foreign_flags()?;
    Ok(Parsed::Serve(values))
}

fn utf8(text: OsString) -> Result<String, ConfigError> {
    text.into_string().map_err(|raw| ConfigError::Usage(format!("{} is not valid UTF-8", raw.to_string_lossy())))
}

/// Reads the command line; true means that it asks for help.
fn read_arguments(args: &[String], values: &mut Values) -> Result<bool, ConfigError> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let dashed = arg.strip_prefix('-').filter(|rest| !rest.is_empty());
        let Some(body) = dashed.map(|rest| rest.strip_prefix('-').unwrap_or(rest)) else {
            return Err(ConfigError::Usage(format!("\"{arg}\" is not a valid flag")));
        };
        if body.is_empty() {
            // `--` ends the flags, and nothing else may follow.
            return match args.next() {
                None => Ok(false),
                Some(extra) => Err(ConfigError::Usage(format!("\"{extra}\" is not a valid flag"))),
            };
        }
        if body.starts_with(['-', '=']) {
            return Err(ConfigError::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let flag = table::find(name).ok_or_else(|| unknown(name))?;
        let value = match (value, flag.placeholder) {
            (Some(value), _) => value,
            (None, None) => "true",
            (None, Some(_)) => {
                args.next().ok_or_else(|| ConfigError::Usage(format!("flag needs an argument: --{name}")))?
            }
        };
        values.put(flag, value.to_owned(), Origin::Argument)?;
        if flag.name == "help" && values.get("help").text == "true" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    values: &mut Values,
) -> Result<(), ConfigError> {
    // In order, so that neither the winner nor the warnings depend on the environment's order. A variable whose name is
    // not UTF-8 cannot be one of ours, and an empty one counts as unset.
    let variables: BTreeMap<String, OsString> = variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect();
    for prefix in PREFIXES {
        let mut aliases = Vec::new();
        for (variable, value) in &variables {
            let Some(rest) = variable.strip_prefix(prefix) else { continue };
            let name = rest.to_ascii_lowercase().replace('_', "-");
            match table::find(&name).filter(|flag| !matches!(flag.name, "help" | "version")) {
                Some(flag) if flag.name == name => read_variable(flag, variable, value, values)?,
                Some(flag) => aliases.push((flag, variable, value)),
                None if SCRIPT_VARIABLES.contains(&variable.as_str()) => {}
                // Only a warning: images and orchestrators set variables such as ETCD_VERSION or ETCD_SERVICE_HOST.
                None => values.warnings.push(format!("the environment variable {variable} sets no flag")),
            }
        }
        for (flag, variable, value) in aliases {
            read_variable(flag, variable, value, values)?;
        }
    }
    Ok(())
}

fn read_variable(
    flag: &'static Flag,
    variable: &str,
    value: &OsString,
    values: &mut Values,
) -> Result<(), ConfigError> {
    if values.is_set(flag.name) {
        return Ok(());
    }
    values.put(flag, utf8(value.clone())?, Origin::Variable(variable.to_owned()))
}

fn unknown(name: &str) -> ConfigError {
    let edits_max = SUGGESTION_EDITS_MAX.min(name.len() / SUGGESTION_BYTES_PER_EDIT);
    let nearest = table::flags()
        .flat_map(table::names)
        .map(|candidate| (edits(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= edits_max);
    match nearest {
        Some((_, candidate)) => ConfigError::Usage(format!("unknown flag --{name}, did you mean --{candidate}?")),
        None => ConfigError::Usage(format!("unknown flag --{name}")),
    }
}

/// The Levenshtein distance, with one row of memory.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
