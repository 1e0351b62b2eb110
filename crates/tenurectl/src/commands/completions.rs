//! `completions`: a script for a shell, made from the same types that read the command line.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::Session;
use crate::arguments::Arguments;
use crate::failure::Failure;

pub(super) fn run(session: &Session, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "tenurectl", &mut script);
    session.output.raw(&script)
}
