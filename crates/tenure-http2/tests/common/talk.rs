//! Dialogues that are served under `/talk/`.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tenure_http2::{Dialogue, Farewell, Heard, Line};

use super::Counted;

/// One of these:
/// - `echo`: repeats what it hears, and ends with the client;
/// - `later`: the same, but hears one message each time that it is polled, and wakes itself;
/// - `count`: hears all, and says how many that were;
/// - `refuse`: ends at once; `three`: says three messages and ends, both with a status;
/// - `mute`, `sober`, `shy`: end with a status when the client is done; `sober` begins its answer only then, `shy` never;
/// - `flood`: says as much as there is room for;
/// - `deaf`: hears nothing.
pub struct Talk {
    kind: String,
    heard: u32,
    unsaid: Option<Vec<u8>>,
    _counted: Counted,
}

impl Talk {
    pub fn new(kind: &str, counted: Counted) -> Talk {
        Talk { kind: kind.to_owned(), heard: 0, unsaid: None, _counted: counted }
    }

    fn echo(&mut self, line: &mut dyn Line, at_once: usize) -> Poll<Farewell> {
        for _ in 0..at_once {
            if let Some(unsaid) = &self.unsaid {
                if !line.has_room() {
                    return Poll::Pending;
                }
                say(line, unsaid);
                self.unsaid = None;
            }
            match line.hear() {
                Heard::Message(message) => self.unsaid = Some(message.to_vec()),
                Heard::Nothing => return Poll::Pending,
                Heard::End => return Poll::Ready(Farewell::OK),
                Heard::Failed { code, message } => return Poll::Ready(Farewell { code, message, metadata: None }),
            }
        }
        Poll::Pending
    }
}

fn say(line: &mut dyn Line, message: &[u8]) {
    line.say(message.len(), &mut |out| out.put_slice(message));
}

fn farewell(code: u32, message: &'static str) -> Poll<Farewell> {
    Poll::Ready(Farewell { code, message: Cow::Borrowed(message), metadata: None })
}

impl Dialogue for Talk {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        match self.kind.as_str() {
            "echo" => self.echo(line, usize::MAX),
            "later" => {
                let echoed = self.echo(line, 1);
                if self.unsaid.is_some() {
                    let waker = cx.waker().clone();
                    tokio::spawn(async move { waker.wake() });
                }
                echoed
            }
            "count" => loop {
                match line.hear() {
                    Heard::Message(_) => self.heard += 1,
                    Heard::Nothing | Heard::Failed { .. } => return Poll::Pending,
                    Heard::End => {
                        say(line, self.heard.to_string().as_bytes());
                        return Poll::Ready(Farewell::OK);
                    }
                }
            },
            "mute" | "sober" | "shy" => match line.hear() {
                Heard::End => farewell(7, "no"),
                _ => Poll::Pending,
            },
            "refuse" => farewell(7, "nobody talks to you"),
            "three" => {
                (0..3).for_each(|number| say(line, &[number; 3]));
                farewell(9, "that is all: 100 %")
            }
            "flood" => {
                while line.has_room() {
                    say(line, &[7; 10_000]);
                    self.heard += 1;
                    assert!(self.heard < 100_000, "there is room for ever");
                }
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }

    fn begins(&self, is_over: bool) -> bool {
        match self.kind.as_str() {
            "shy" => false,
            "sober" => is_over,
            _ => !is_over,
        }
    }
}
