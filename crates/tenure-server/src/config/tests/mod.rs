//! Command lines and environments, and what the server is told by them: what each file needs to turn a case into a line.

mod meaning;
mod spelling;
mod tls;

use std::ffi::OsString;

use super::{ConfigError, Invocation, ServerConfig};

fn invoke(args: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Invocation::from_args(args.iter().map(OsString::from), variables)
}

fn config_in(args: &[&str], variables: &[(&str, &str)]) -> ServerConfig {
    match invoke(args, variables).unwrap_or_else(|error| panic!("{args:?}: {error}")) {
        Invocation::Serve(config) => *config,
        other => panic!("{args:?} are {other:?}"),
    }
}

fn config(args: &[&str]) -> ServerConfig {
    config_in(args, &[])
}

fn error_of(args: &[&str]) -> String {
    invoke(args, &[]).expect_err("these flags are wrong").to_string()
}

fn bootstrap_error_of(args: &[&str]) -> String {
    config(args).bootstrap().expect_err("this cluster is wrong").to_string()
}

fn text<T: std::fmt::Display>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
