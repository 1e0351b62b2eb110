//! Where the demo is seen: a terminal, or plain lines for those who have none.
//!
//! The terminal is put back however the demo ends: when [`Terminal`] is dropped, which a panic does as well.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::mem::ManuallyDrop;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use futures::StreamExt as _;
use ratatui::backend::CrosstermBackend;

use crate::clock::Moment;
use crate::model::Model;
use crate::view::{self, Theme};

/// A frame of a large terminal, so that it is written at once.
const FRAME_BYTES: usize = 128 * 1024;

/// What the viewer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Key(char),
    /// Ctrl-C, which a terminal in raw mode does not turn into a signal.
    Interrupt,
    Resized,
    /// There is no terminal any more.
    Closed,
}

/// Either kind of screen.
#[derive(Debug)]
pub enum Screen {
    Terminal(Box<Terminal>),
    Lines(Lines),
}

impl Screen {
    /// Shows the model.
    pub fn draw(&mut self, model: &Model, now: Moment) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.draw(model, now),
            Self::Lines(lines) => lines.draw(model),
        }
    }

    /// The next thing that the viewer does. Lines never do anything.
    pub async fn input(&mut self) -> Input {
        match self {
            Self::Terminal(terminal) => terminal.input().await,
            Self::Lines(_) => std::future::pending().await,
        }
    }
}

/// A terminal in raw mode, on its alternate screen.
#[derive(Debug)]
pub struct Terminal {
    /// Never dropped: it would say on stderr that the cursor cannot be shown if the terminal is gone, and panic because
    /// stderr is gone with it.
    terminal: ManuallyDrop<ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>>,
    input: EventStream,
    theme: Theme,
}

impl Terminal {
    /// Why there is no terminal to draw on, if there is none.
    pub fn missing() -> Option<&'static str> {
        if !io::stdout().is_terminal() {
            Some("stdout is not a terminal")
        } else if !io::stdin().is_terminal() {
            Some("stdin is not a terminal")
        } else if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
            Some("TERM names no terminal that can be drawn on")
        } else {
            None
        }
    }

    /// Takes over the terminal.
    pub fn take(theme: Theme) -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on a failure must put the terminal back.
        let taken = Self::enter(theme);
        if taken.is_err() {
            put_back();
        }
        taken
    }

    fn enter(theme: Theme) -> io::Result<Self> {
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        let out = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let terminal = ratatui::Terminal::new(CrosstermBackend::new(out))?;
        Ok(Self { terminal: ManuallyDrop::new(terminal), input: EventStream::new(), theme })
    }

    fn draw(&mut self, model: &Model, now: Moment) -> io::Result<()> {
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        let theme = self.theme;
        self.terminal.draw(|frame| view::draw(frame, model, now, theme))?;
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)
    }

    async fn input(&mut self) -> Input {
        loop {
            match self.input.next().await {
                Some(Ok(Event::Key(key))) => {
                    if let Some(input) = key_input(key) {
                        return input;
                    }
                }
                Some(Ok(Event::Resize(..))) => return Input::Resized,
                Some(Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_))) => {}
                Some(Err(_)) | None => return Input::Closed,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        put_back();
    }
}

/// Nothing can be done about a terminal that takes nothing any more.
fn put_back() {
    execute!(io::stdout(), EndSynchronizedUpdate, cursor::Show, LeaveAlternateScreen).ok();
    disable_raw_mode().ok();
}

fn key_input(key: KeyEvent) -> Option<Input> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Input::Interrupt),
        KeyCode::Char(_) if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => None,
        KeyCode::Char(character) => Some(Input::Key(character)),
        _ => None,
    }
}

/// Events as lines on stdout.
#[derive(Debug, Default)]
pub struct Lines {
    printed: u64,
}

impl Lines {
    fn draw(&mut self, model: &Model) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for entry in model.events.iter().filter(|entry| entry.number > self.printed) {
            writeln!(out, "{} {}", view::clock_text(entry.at), entry.text)?;
        }
        self.printed = model.events.iter().last().map_or(self.printed, |entry| entry.number);
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_c_interrupts_and_other_combinations_do_nothing() {
        let press = |code, modifiers| key_input(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Input::Interrupt));
        assert_eq!(press(KeyCode::Char('k'), KeyModifiers::CONTROL), None);
        assert_eq!(press(KeyCode::Char('K'), KeyModifiers::SHIFT), Some(Input::Key('K')));
        assert_eq!(press(KeyCode::Char('k'), KeyModifiers::NONE), Some(Input::Key('k')));
        assert_eq!(press(KeyCode::Enter, KeyModifiers::NONE), None);
    }
}
