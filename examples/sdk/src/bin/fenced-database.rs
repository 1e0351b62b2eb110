//! An SQLite database that checks fencing tokens inside its own transactions, and an account in it that one process at a time may charge.
//!
//! ```text
//! make cluster
//! cargo build -p tenure-examples --bin fenced-database
//! cargo run -q -p tenure-examples --bin fenced-database -- --name first  --database /tmp/fenced.db & first=$!
//! cargo run -q -p tenure-examples --bin fenced-database -- --name second --database /tmp/fenced.db & second=$!
//! kill -STOP $first; sleep 10; kill -CONT $first
//! kill $first $second
//! ```
//!
//! The highest token that was seen is a row beside the data, and is compared and raised in the transaction that changes the data. So the
//! database itself decides, and no pause of a client or delay of a network comes between. A lock without this makes an overlap
//! unlikely; this makes it impossible.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tenure_client::lock::Wait;
use tenure_client::session::Session;
use tenure_examples::{Cluster, Refused, process_name, until_stopped};

/// Charges an account once a second while it holds the account's lock.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// What this process is called
    #[arg(long, default_value_t = process_name())]
    name: String,
    /// The database file
    #[arg(long)]
    database: PathBuf,
    /// The account, and the name of its lock
    #[arg(long, default_value = "account-1")]
    account: String,
    /// Seconds after which another one may get the lock if this process is gone
    #[arg(long, default_value_t = 5)]
    ttl: u64,
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS fence (name TEXT PRIMARY KEY, token INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, charges INTEGER NOT NULL, by_whom TEXT NOT NULL) STRICT;
";

/// A database that is only changed by who shows a token that is not lower than any before.
struct Accounts(Connection);

impl Accounts {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(TABLES)?;
        Ok(Self(connection))
    }

    /// Charges an account, and gives how often it was charged by now.
    fn charge(&mut self, account: &str, token: i64, by: &str) -> rusqlite::Result<Result<i64, Refused>> {
        // It takes the write lock at once: nothing changes between the comparison and the commit.
        let change = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let seen: Option<i64> =
            change.query_row("SELECT token FROM fence WHERE name = ?1", [account], |row| row.get(0)).optional()?;
        if let Some(seen) = seen.filter(|seen| *seen > token) {
            return Ok(Err(Refused { seen }));
        }
        let raise = "INSERT INTO fence VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET token = excluded.token";
        change.execute(raise, params![account, token])?;
        let charge = "INSERT INTO account VALUES (?1, 1, ?2)
            ON CONFLICT (name) DO UPDATE SET charges = charges + 1, by_whom = excluded.by_whom RETURNING charges";
        let charges = change.query_row(charge, params![account, by], |row| row.get(0))?;
        change.commit()?;
        Ok(Ok(charges))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut accounts = Accounts::open(&arguments.database).context("the database cannot be opened")?;
    let client = arguments.cluster.connect().await?;
    until_stopped(async {
        loop {
            let ttl = Duration::from_secs(arguments.ttl);
            let session = client.session().ttl(ttl).name(&*arguments.name).start().await?;
            hold(&session, &arguments, &mut accounts).await?;
        }
    })
    .await?;
    client.close().await;
    Ok(())
}

/// Waits for the lock, and charges until it is lost. The last charge comes after the loss, as one would that was under way.
async fn hold(session: &Session, arguments: &Arguments, accounts: &mut Accounts) -> anyhow::Result<()> {
    let (name, account) = (&arguments.name, &arguments.account);
    let guard = session.lock(account.clone()).wait(Wait::Forever).acquire().await?;
    let token = guard.token().revision.0;
    println!("{name}: has the lock, token {token}");
    let mut is_lost = false;
    while !is_lost {
        tokio::select! {
            _ = guard.lost() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // After a pause both are due, and either may come first. The state is compared with the clock right here.
        if let Some(reason) = guard.state().lost_reason() {
            println!("{name}: LOST: {reason}");
            is_lost = true;
        }
        // Short, and on a file: it may block this program's only other work, the renewal of its lease, for a moment.
        match tokio::task::block_in_place(|| accounts.charge(account, token, name))? {
            Ok(charges) => println!("{name}: charged {account} with token {token}; {charges} charges by now"),
            Err(refused) => println!("{name}: REFUSED: token {token} is lower than {}", refused.seen),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_token_changes_nothing() {
        let mut accounts = Accounts(Connection::open_in_memory().unwrap());
        accounts.0.execute_batch(TABLES).unwrap();
        assert_eq!(accounts.charge("a", 5, "first").unwrap(), Ok(1));
        assert_eq!(accounts.charge("a", 9, "second").unwrap(), Ok(2));
        assert_eq!(accounts.charge("a", 5, "first").unwrap(), Err(Refused { seen: 9 }));
        assert_eq!(accounts.charge("b", 5, "first").unwrap(), Ok(1), "each account has a fence of its own");
        assert_eq!(accounts.charge("a", 9, "second").unwrap(), Ok(3));
        let by: String =
            accounts.0.query_row("SELECT by_whom FROM account WHERE name = 'a'", [], |row| row.get(0)).unwrap();
        assert_eq!(by, "second");
    }
}
