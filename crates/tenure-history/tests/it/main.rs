//! The checkers against hand-written histories, against a checker that tries everything, and against their own mutations.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests, with small numbers from their own generator"
)]

mod append;
mod brute;
mod build;
mod contest;
mod fault;
mod generate;
mod lease;
mod linearize;
mod lock;
mod mutate;
mod queue;
mod random;
mod reads;
mod report;
mod report_page;
mod run;
mod watch;
mod workload;

#[path = "../../examples/report/made_up.rs"]
mod made_up;
