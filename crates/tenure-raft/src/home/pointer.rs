//! The file that names the generation that counts.
//!
//! It is written under another name, synced, and renamed: a reader finds the old text or the new one. What the crash of a
//! write leaves under the other name is never read.

use std::io;
use std::path::Path;

use super::Generation;
use crate::log::FileLayer;

const FILE: &str = "generation";
const UNFINISHED: &str = "generation.new";
const HEADER: &str = "tenure-state 1";

/// Far above the length of any pointer; more is not read.
const BYTES_MAX: u64 = 4096;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pointer {
    Missing,
    Damaged,
    Names(Generation),
}

pub(super) fn is_pointer(name: &str) -> bool {
    name == FILE || name == UNFINISHED
}

pub(super) fn read(files: &dyn FileLayer, dir: &Path) -> io::Result<Pointer> {
    let file = match files.open_to_read(&dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pointer::Missing),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.size()?.min(BYTES_MAX)).map_err(io::Error::other)?];
    let read = file.read_at(0, &mut bytes)?;
    let text = std::str::from_utf8(&bytes[..read]).ok();
    Ok(text.and_then(parse).map_or(Pointer::Damaged, Pointer::Names))
}

/// Durable when this returns.
pub(super) fn write(files: &dyn FileLayer, dir: &Path, generation: Generation) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    let file = files.create(&unfinished)?;
    file.write_at(0, render(generation).as_bytes())?;
    file.sync_data()?;
    files.rename(&unfinished, &dir.join(FILE))?;
    files.sync_dir(dir)
}

fn render(generation: Generation) -> String {
    let body = format!("{HEADER}\ngeneration {}\n", generation.0);
    format!("{body}checksum {:08x}\n", crc32fast::hash(body.as_bytes()))
}

fn parse(text: &str) -> Option<Generation> {
    let number = text.strip_prefix(HEADER)?.strip_prefix("\ngeneration ")?.split('\n').next()?;
    let generation = super::number(number)?;
    (render(generation) == text).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        for number in [0, 1, 7, u64::MAX] {
            let text = render(Generation(number));
            assert_eq!(parse(&text), Some(Generation(number)));
            for at in 0..text.len() {
                let mut flipped = text.clone().into_bytes();
                flipped[at] ^= 1;
                assert_eq!(parse(&String::from_utf8(flipped).expect("still ASCII")), None, "byte {at}");
                assert_eq!(parse(&text[..at]), None, "cut at {at}");
            }
            assert_eq!(parse(&(text + "x")), None);
        }
    }
}
