//! `snapshot save`: the state of the cluster in a file.
//!
//! What comes is written to FILE.part, hashed on its way, and only what is whole gets its name: a file that is there is a
//! snapshot. The hash at its end stays in it, so that whoever restores it can check it again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tenure_proto::etcdserverpb as pb;
use tokio::time::timeout;
use tonic::Streaming;

use super::Session;
use super::view::size;
use crate::failure::Failure;
use crate::output::Report;

/// How long the server may be silent. It reads from a disk, at the rate that it was told.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a SHA-256.
const HASH_BYTES: usize = 32;

/// What a snapshot's body is a multiple of.
const BLOCK_BYTES: u64 = 512;

/// Says in a snapshot of Tenure's that its member had no leader.
const UNCONFIRMED: &[u8] = b"\nconfirmed no\n";

pub(super) async fn save(session: &Session, file: &Path) -> Result<(), Failure> {
    let part = part_of(file);
    let local = |error: io::Error| Failure::Local(format!("cannot write {}: {error}", part.display()));
    let (endpoint, stream) = session.client.snapshot().await?;
    let mut receiving = Receiving::to(File::create(&part).map_err(local)?);
    let received = receive(stream, &mut receiving, &part).await;
    let saved = received.and_then(|()| {
        let hash = receiving.finish(&part)?;
        fs::rename(&part, file)
            .map_err(|error| Failure::Local(format!("cannot rename {}: {error}", part.display())))?;
        sync_dir_of(file).map_err(local)?;
        Ok(hash)
    });
    let hash = saved.inspect_err(|_| drop(fs::remove_file(&part)))?;
    if receiving.is_unconfirmed {
        let note = "its member knew no leader: what the others alone had acknowledged is not in it";
        session.output.note(note);
    }
    session.output.show(&Saved {
        file: file.to_owned(),
        endpoint: endpoint.to_string(),
        bytes: receiving.bytes,
        sha256: hash,
        confirmed: !receiving.is_unconfirmed,
    })
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// The name survives the machine only once its directory is synced.
fn sync_dir_of(file: &Path) -> io::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

async fn receive(
    mut stream: Streaming<pb::SnapshotResponse>,
    receiving: &mut Receiving,
    part: &Path,
) -> Result<(), Failure> {
    loop {
        let message = timeout(PATIENCE, stream.message()).await;
        let message = message.map_err(|_| Failure::Local("the server fell silent; nothing was saved".to_owned()))?;
        match message {
            Ok(Some(message)) => receiving
                .take(&message.blob)
                .map_err(|error| Failure::Local(format!("cannot write {}: {error}", part.display())))?,
            Ok(None) => return Ok(()),
            Err(status) => {
                return Err(Failure::Local(format!("the snapshot broke off; nothing was saved: {}", status.message())));
            }
        }
    }
}

/// A file on its way. The last bytes that came are held back: they may be the hash.
struct Receiving {
    file: File,
    hash: Sha256,
    held: Vec<u8>,
    bytes: u64,
    is_unconfirmed: bool,
}

impl Receiving {
    fn to(file: File) -> Receiving {
        Receiving { file, hash: Sha256::new(), held: Vec::new(), bytes: 0, is_unconfirmed: false }
    }

    fn take(&mut self, blob: &[u8]) -> io::Result<()> {
        if self.bytes == 0 {
            // What a snapshot says of itself stands in its second block.
            let said = blob.get(512..1024).unwrap_or_default();
            self.is_unconfirmed = said.windows(UNCONFIRMED.len()).any(|window| window == UNCONFIRMED);
        }
        self.file.write_all(blob)?;
        self.bytes += blob.len() as u64;
        self.held.extend_from_slice(blob);
        let certain = self.held.len().saturating_sub(HASH_BYTES);
        self.hash.update(&self.held[..certain]);
        self.held.drain(..certain);
        Ok(())
    }

    /// Whether it is whole, and then its hash.
    fn finish(&mut self, part: &Path) -> Result<String, Failure> {
        let found = self.hash.finalize_reset();
        if self.bytes % BLOCK_BYTES != HASH_BYTES as u64 || found[..] != self.held[..] {
            let text =
                "what came is not what was sent: its hash is not the one at its end. Nothing was saved; try again";
            return Err(Failure::Local(text.to_owned()));
        }
        self.file.sync_all().map_err(|error| Failure::Local(format!("cannot write {}: {error}", part.display())))?;
        Ok(found.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[derive(Debug, Serialize)]
struct Saved {
    file: PathBuf,
    endpoint: String,
    bytes: u64,
    sha256: String,
    confirmed: bool,
}

impl Report for Saved {
    fn human(&self) -> String {
        let bytes = size(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        format!("snapshot saved at {} ({bytes}, from {})\n", self.file.display(), self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    /// A file whose hash is right, in blobs of some length.
    fn received(whole: &[u8], blob: usize) -> (Result<String, Failure>, Receiving) {
        let path = std::env::temp_dir().join(format!("tenurectl-snapshot-{}-{blob}", std::process::id()));
        let mut receiving = Receiving::to(File::create(&path).expect("a file"));
        for part in whole.chunks(blob) {
            receiving.take(part).expect("written");
        }
        let finished = receiving.finish(&path);
        assert_eq!(fs::read(&path).expect("read"), whole);
        fs::remove_file(&path).expect("removed");
        (finished, receiving)
    }

    fn sealed(body: &[u8]) -> Vec<u8> {
        [body, &Sha256::digest(body)[..]].concat()
    }

    #[test]
    fn only_what_ends_with_its_hash_is_whole() {
        let mut body = vec![7; 2048];
        body[600..600 + UNCONFIRMED.len()].copy_from_slice(UNCONFIRMED);
        let whole = sealed(&body);
        for blob in [1031, 2048, 2080, 5000] {
            let (finished, receiving) = received(&whole, blob);
            assert_eq!(finished.expect("whole").len(), 64);
            assert!(receiving.is_unconfirmed && receiving.bytes == 2080);
        }
        assert!(!received(&sealed(&[7; 1024]), 4096).1.is_unconfirmed);
        let mut flipped = whole.clone();
        flipped[1000] ^= 1;
        for broken in [&flipped[..], &whole[..2048], &whole[..2079], &whole[32..], &sealed(&[7; 100]), b""] {
            assert!(received(broken, 777).0.is_err());
        }
    }

    #[test]
    fn a_saved_snapshot_is_a_line_or_an_object() {
        let saved = Saved {
            file: "backup.db".into(),
            endpoint: "127.0.0.1:2379".to_owned(),
            bytes: 2080,
            sha256: "ab".to_owned(),
            confirmed: true,
        };
        assert_eq!(human(&saved), "snapshot saved at backup.db (2.0 KiB, from 127.0.0.1:2379)\n");
        assert_eq!(
            json(&saved),
            "{\"file\":\"backup.db\",\"endpoint\":\"127.0.0.1:2379\",\"bytes\":2080,\"sha256\":\"ab\",\"confirmed\":true}\n"
        );
    }
}
