//! A resource that checks fencing tokens, and two holders of a lock, of whom the first was away for too long.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use etcd_client::{Client, LockOptions};

/// What the lock protects. It remembers the highest token that it saw, and refuses any that is lower.
#[derive(Debug, Default)]
struct Resource {
    highest: i64,
    value: &'static str,
}

impl Resource {
    fn write(&mut self, token: i64, value: &'static str) -> String {
        if token < self.highest {
            return format!("refused, {} was seen", self.highest);
        }
        (self.highest, self.value) = (token, value);
        "written".to_owned()
    }
}

/// Waits for the lock and gives its lease and its token, which is the create revision of the lock's key.
async fn lock(client: &mut Client, name: &str) -> Result<(i64, i64), Box<dyn Error>> {
    let lease = client.lease_grant(10, None).await?.id();
    let locked = client.lock(name, Some(LockOptions::new().with_lease(lease))).await?;
    let answer = client.get(locked.key(), None).await?;
    let key = answer.kvs().first().ok_or("the lock was lost at once")?;
    Ok((lease, key.create_revision()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoints: Vec<String> = env::args().skip(1).collect();
    let mut client = Client::connect(endpoints, None).await?;
    let mut shared = Resource::default();

    let (lease, first) = lock(&mut client, "example").await?;
    println!("token {first}: {}", shared.write(first, "by the first"));
    client.lease_revoke(lease).await?; // The first one is away, and its lease ends.
    let (lease, second) = lock(&mut client, "example").await?;
    println!("token {second}: {}", shared.write(second, "by the second"));
    // The first one comes back, and believes that it holds the lock.
    println!("token {first}: {}", shared.write(first, "by the first"));
    println!("the resource was written {}", shared.value);
    client.lease_revoke(lease).await?;
    Ok(())
}
