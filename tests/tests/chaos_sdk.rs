//! The SDK at full size, for `make scenarios`: guards, partitions, stopped holders, discovery and renewals in numbers.
//!
//! `TENURE_CHAOS_SDK_ROUNDS` (200) changes how many partitions and stops there are, `TENURE_CHAOS_SDK_SECS` (600) how long
//! services come and go. Each prints one line of figures.

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::sdk_scale::{apart, guards, many, services, stopped};

/// How many holders are cut off or stopped at the same time: more would measure the machine.
const AT_ONCE: usize = 10;

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("chaos_sdk", test, body);
}

fn setting(name: &str, usual: u64) -> Result<u64> {
    match env::var(name) {
        Err(_) => Ok(usual),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
    }
}

fn rounds() -> Result<apart::Size> {
    let rounds = usize::try_from(setting("TENURE_CHAOS_SDK_ROUNDS", 200)?)?;
    Ok(apart::Size { rounds, at_once: AT_ONCE, ttl: Duration::from_secs(2) })
}

#[test]
fn a_thousand_guards_survive_their_leaders() {
    run("a_thousand_guards_survive_their_leaders", |scenario| async move {
        let size = guards::Size { guards: 1000, sessions: 100, kills: 10, ttl: Duration::from_secs(10) };
        guards::survive(&scenario.home, size).await
    });
}

#[test]
fn a_holder_that_is_cut_off_knows_it_before_the_next_one_holds() {
    run("a_holder_that_is_cut_off_knows_it_before_the_next_one_holds", |scenario| async move {
        apart::cut_off(&scenario.home, rounds()?).await
    });
}

#[test]
fn a_holder_that_was_stopped_sees_first_that_it_is_none() {
    run("a_holder_that_was_stopped_sees_first_that_it_is_none", |scenario| async move {
        stopped::stop_holders(&scenario.home, Path::new(env!("CARGO_BIN_EXE_sdk-holder")), rounds()?).await
    });
}

#[test]
fn caches_agree_with_the_store_after_chaos() {
    run("caches_agree_with_the_store_after_chaos", |scenario| async move {
        let size = services::Size {
            hosts: 25,
            services_per_host: 20,
            caches: 50,
            ttl: Duration::from_secs(15),
            lasting: Duration::from_secs(setting("TENURE_CHAOS_SDK_SECS", 600)?),
            seed: 1,
        };
        services::churn(&scenario.home, size).await
    });
}

#[test]
fn ten_thousand_sessions_renew_in_batches() {
    run("ten_thousand_sessions_renew_in_batches", |scenario| async move {
        let size = many::Size { sessions: 10_000, ttl: Duration::from_secs(30), window: Duration::from_secs(60) };
        many::renew(&scenario.home, size).await
    });
}
