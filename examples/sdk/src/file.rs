//! A file that checks fencing tokens: the smallest resource that does.
//!
//! Each line begins with the token of the writer that appended it, so the file itself remembers the highest token that it saw: that of
//! its last line. Reading it and appending happen under a lock of the file system, so no other writer comes between. It is a log that is
//! appended to, and never rewritten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Lines are read from the end: none is longer.
const LINE_BYTES_MAX: u64 = 4096;

/// A file that is only written by who shows a token that is not lower than any before.
#[derive(Clone, Debug)]
pub struct FencedFile {
    path: PathBuf,
}

/// A token is lower than one that was seen: its holder has been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The highest token that was seen.
    pub seen: i64,
}

impl FencedFile {
    /// The file at this path; it is made by the first write.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// Appends a line, unless a writer with a higher token was there.
    ///
    /// # Errors
    ///
    /// What the file system said; or, if the line or the last one is too long or without a token, that.
    pub fn append(&self, token: i64, text: &str) -> io::Result<Result<(), Refused>> {
        let line = format!("{token} {}\n", text.replace('\n', " "));
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the line is too long"));
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
        // It goes when the file is closed, also when the process dies.
        flock(&file, FlockOperation::LockExclusive)?;
        if let Some(seen) = last_token(&mut file)?.filter(|seen| *seen > token) {
            return Ok(Err(Refused { seen }));
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        Ok(Ok(()))
    }
}

/// The token of the last line; none if there are no lines.
fn last_token(file: &mut File) -> io::Result<Option<i64>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LINE_BYTES_MAX)))?;
    let mut end = Vec::new();
    file.take(LINE_BYTES_MAX).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    let Some(last) = end.lines().next_back() else { return Ok(None) };
    let token = last.split_once(' ').and_then(|(token, _)| token.parse().ok());
    token.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file has a line without a token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_token_than_the_last_one_is_refused() {
        let path = std::env::temp_dir().join(format!("fenced-file-{}", std::process::id()));
        let file = FencedFile::new(&path);
        assert_eq!(file.append(5, "first").unwrap(), Ok(()));
        assert_eq!(file.append(5, "again").unwrap(), Ok(()));
        assert_eq!(file.append(9, "second\nline").unwrap(), Ok(()));
        assert_eq!(file.append(5, "late").unwrap(), Err(Refused { seen: 9 }));
        assert!(file.append(9, &"x".repeat(5000)).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "5 first\n5 again\n9 second line\n");
        std::fs::remove_file(&path).unwrap();
    }
}
