//! Leases in large numbers and with many keys, for `make scenarios`: bounds for Tenure, and etcd's figures beside them.
//!
//! `TENURE_CHAOS_LEASES` (100,000) changes how many leases there are, `TENURE_CHAOS_LEASES_MORE` adds a run with so many:
//! 1,000,000 take some minutes and a few gigabytes of memory. Each prints one line of figures for each program.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use tenure_tests::binaries::Program;
use tenure_tests::lease_scale::wire::Way;
use tenure_tests::lease_scale::{big, many, programs, promotion, slow_apply, storm};
use tenure_tests::scenario::{self, Scenario};

/// How much slower puts may be while leases end.
const PUT_SLOWDOWN_MAX: f64 = 2.0;

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("chaos_lease_scale", test, body);
}

fn setting(name: &str) -> Result<Option<i64>> {
    match env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name}={text} is not a number"))?)),
    }
}

fn leases() -> Result<i64> {
    Ok(setting("TENURE_CHAOS_LEASES")?.unwrap_or(100_000))
}

const MANY_KEYS: big::Size = big::Size { keys: 10_000, stall_max: Duration::from_millis(100) };
const VERY_MANY_KEYS: big::Size = big::Size { keys: 100_000, stall_max: Duration::from_secs(1) };

#[test]
fn a_lease_with_ten_thousand_keys_ends() {
    run("a_lease_with_ten_thousand_keys_ends", |scenario| async move {
        for program in programs() {
            big::lease_ends(&scenario.home, program, MANY_KEYS).await?;
        }
        Ok(())
    });
}

#[test]
fn a_lease_with_a_hundred_thousand_keys_ends() {
    run("a_lease_with_a_hundred_thousand_keys_ends", |scenario| async move {
        for program in programs() {
            big::lease_ends(&scenario.home, program, VERY_MANY_KEYS).await?;
        }
        Ok(())
    });
}

#[test]
fn ten_thousand_keys_are_deleted() {
    run("ten_thousand_keys_are_deleted", |scenario| async move {
        for program in programs() {
            big::range_is_deleted(&scenario.home, program, MANY_KEYS).await?;
        }
        Ok(())
    });
}

#[test]
fn a_hundred_thousand_keys_are_deleted() {
    run("a_hundred_thousand_keys_are_deleted", |scenario| async move {
        for program in programs() {
            big::range_is_deleted(&scenario.home, program, VERY_MANY_KEYS).await?;
        }
        Ok(())
    });
}

#[test]
fn leases_end_in_a_storm() {
    run("leases_end_in_a_storm", |scenario| async move {
        for program in programs() {
            storm::storm(&scenario.home, program, leases()?, PUT_SLOWDOWN_MAX).await?;
        }
        Ok(())
    });
}

#[test]
fn very_many_leases_are_renewed() {
    run("very_many_leases_are_renewed", |scenario| async move {
        let secs = Duration::from_secs;
        let size = many::Size { leases: leases()?, ttl: secs(30), way: Way::Each, measured: secs(30) };
        for program in programs() {
            many::renewed(&scenario.home, program, size).await?;
        }
        many::renewed(&scenario.home.join("batches"), Program::Tenured, many::Size { way: Way::Batches, ..size }).await
    });
}

#[test]
fn a_leader_dies_among_very_many_leases() {
    run("a_leader_dies_among_very_many_leases", |scenario| async move {
        for program in programs() {
            let size = promotion::Size { leases: leases()?, rounds: 3, renewed: Some(Duration::from_secs(30)) };
            promotion::failover(&scenario.home, program, size).await?;
        }
        Ok(())
    });
}

/// As many as the machine holds: TTLs are long, because clients and members share its cores.
#[test]
fn many_more_leases_are_tried() {
    run("many_more_leases_are_tried", |scenario| async move {
        let Some(leases) = setting("TENURE_CHAOS_LEASES_MORE")? else {
            println!("left out: TENURE_CHAOS_LEASES_MORE is not set");
            return Ok(());
        };
        let secs = Duration::from_secs;
        let size = many::Size { leases, ttl: secs(300), way: Way::Batches, measured: secs(30) };
        many::renewed(&scenario.home.join("many"), Program::Tenured, size).await?;
        let size = promotion::Size { leases, rounds: 2, renewed: None };
        promotion::failover(&scenario.home.join("promotion"), Program::Tenured, size).await
    });
}

#[test]
fn no_lease_ends_while_apply_is_slow() {
    run("no_lease_ends_while_apply_is_slow", |scenario| async move {
        let size = slow_apply::Size {
            leases: 10_000,
            ttl: Duration::from_secs(5),
            slower: Duration::from_millis(200),
            lasting: Duration::from_secs(30),
        };
        slow_apply::renewed(&scenario.home, size).await
    });
}
