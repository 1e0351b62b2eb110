//! Notes to people from a program that must not be held up: a reader of stderr that stops reading would otherwise stop the
//! renewals of a lease, and with them the end of the command that depends on it.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::output::{Format, Output, complain};

/// Notes that are not written yet. There are few, and those that find no room are of the kind that is repeated.
const NOTES_MAX: usize = 64;
/// How long the last notes may take when the program has come to its end.
const END_PATIENCE: Duration = Duration::from_secs(1);
const END_LOOK: Duration = Duration::from_millis(5);

/// A thread that writes to stderr.
#[derive(Debug)]
pub(crate) struct Notes {
    sender: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
}

impl Notes {
    /// For programs there are no notes.
    pub(crate) fn new(output: Output) -> Notes {
        if output.format != Format::Human {
            return Notes { sender: None, writer: None };
        }
        let (sender, notes) = sync_channel::<String>(NOTES_MAX);
        let writer = thread::spawn(move || notes.iter().for_each(|note| complain(&note)));
        Notes { sender: Some(sender), writer: Some(writer) }
    }

    /// Tells a person something.
    pub(crate) fn tell(&self, text: &str) {
        if let Some(sender) = &self.sender {
            // Without room it is dropped: nobody reads.
            drop(sender.try_send(text.to_owned()));
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.sender = None;
        let Some(writer) = self.writer.take() else { return };
        let begun = Instant::now();
        while !writer.is_finished() && begun.elapsed() < END_PATIENCE {
            thread::sleep(END_LOOK);
        }
    }
}
