//! The arguments of `discovery list`, `watch` and `register`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::read;

#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryCommand {
    /// The instances that are registered
    List(DiscoveryKindsArgs),
    /// Follow the instances that come, change and go; goes on when members fail
    Watch(DiscoveryKindsArgs),
    /// Register an instance as long as this process runs
    Register(DiscoveryRegisterArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DiscoveryKindsArgs {
    /// The registry
    pub registry: String,
    /// Only instances of this kind; may be given more than once
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DiscoveryRegisterArgs {
    /// The registry
    pub registry: String,
    /// The instance's kind
    pub kind: String,
    /// The instance's id, unique among those of its kind
    pub id: String,
    /// Where it is reached: HOST:PORT, or a URI
    #[arg(long, value_name = "ADDR")]
    pub addr: Option<String>,
    /// What else others should know; VALUE is JSON, or else a text. May be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = meta)]
    pub meta: Vec<(String, serde_json::Value)>,
    /// How long it stays registered when this process dies
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = read::duration)]
    pub ttl: Duration,
    /// How long to wait, once stopped, for others to learn that it goes
    #[arg(long, value_name = "TIME", value_parser = read::duration)]
    pub drain: Option<Duration>,
    /// Do not take the place of an instance that is registered
    #[arg(long)]
    pub no_replace: bool,
}

fn meta(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is needed")?;
    if name.is_empty() {
        return Err("a name is needed before the =".to_owned());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_json_or_else_a_text() {
        for (text, value) in [
            ("a=1", json!(1)),
            ("a=true", json!(true)),
            ("a=ranked", json!("ranked")),
            ("a=\"1\"", json!("1")),
            ("a={\"b\":[2]}", json!({"b": [2]})),
            ("a=", json!("")),
            ("a=b=c", json!("b=c")),
        ] {
            assert_eq!(meta(text), Ok(("a".to_owned(), value)), "{text}");
        }
        assert!(meta("a").is_err() && meta("=1").is_err());
    }
}
