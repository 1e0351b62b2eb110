//! Runs the golden scripts of `tests/scripts`: stories told to the model, and the frames that are drawn of it.
//!
//! ```text
//! setup nodes=3 services=20 contenders=3 [attached]   begins anew; without it, three nodes and 200 services
//! at SECONDS                     the time from here on         phase starting|running|checking
//! status NODE leader=NODE|none term=N revision=N applied=N     process NODE running|paused|gone
//! begin NODE VERB                done NODE VERB [PROBLEM]      a script of cluster-scripts/ at work
//! grant FROM TO ttl=SECONDS      renew FROM TO ttl=SECONDS     services FROM to TO, sent now
//! stop SERVICE                   end SERVICE                   a service's lease
//! queue CONTENDER=TOKEN…         taken CONTENDER TOKEN         freed CONTENDER      lost CONTENDER
//! acks COUNT every=MS latency=MS from here on in time          unanswered COUNT
//! say KIND TEXT                  missed COUNT
//! key K                          what the key means now; selections are carried out
//! draw WIDTH HEIGHT              the frame as text             styles WIDTH HEIGHT   the looks of each cell
//! ```
//!
//! To accept changed frames after looking at them: `UPDATE_GOLDENFILES=1 cargo test -p tenure-demo --test frames`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use goldenscript::{Command, Context};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use tenure_demo::clock::Moment;
use tenure_demo::keys::{Pressed, pressed};
use tenure_demo::model::{Answer, Kind, Model, News, Phase, Place, Process, Setup, Verb};
use tenure_demo::view::{Theme, draw};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[test]
fn frames() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        println!("{}; accept with: UPDATE_GOLDENFILES=1 cargo test -p tenure-demo --test frames", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "the first line says why the script matters");
        goldenscript::run(&mut Runner::default(), &path).unwrap();
    }
}

/// A story that touches everything, for the tests below.
fn eventful() -> Runner {
    let mut runner = Runner::default();
    goldenscript::generate(&mut runner, include_str!("scripts/a_leader_is_killed")).expect("a story");
    runner
}

#[test]
fn without_colour_no_cell_has_one() {
    let runner = eventful();
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        let buffer = runner.frame(width, height, false);
        let plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(buffer.content().iter().all(plain), "{width} by {height}");
        let coloured = runner.frame(width, height, true);
        assert!(!coloured.content().iter().all(plain), "{width} by {height} has no colours to leave out");
        let symbols =
            |buffer: &Buffer| buffer.content().iter().map(|cell| cell.symbol().to_owned()).collect::<Vec<_>>();
        assert_eq!(symbols(&buffer), symbols(&coloured), "colour changes no character");
    }
}

#[test]
fn every_size_can_be_drawn() {
    let runner = eventful();
    for width in [1, 10, 59, 60, 61, 79, 80, 149, 150, 151, 260] {
        for height in [1, 19, 20, 21, 24, 90] {
            runner.frame(width, height, true);
        }
    }
}

/// A story so far.
struct Runner {
    now: Moment,
    model: Model,
}

impl Default for Runner {
    fn default() -> Self {
        Self { now: Moment::ZERO, model: model(3, 200, 5, true) }
    }
}

fn model(nodes: usize, services: usize, contenders: usize, ours: bool) -> Model {
    let ports = [2379, 22379, 32379, 42379, 52379];
    let nodes = ports.iter().take(nodes).enumerate();
    let nodes = nodes.map(|(at, port)| (format!("n{}", at + 1), format!("127.0.0.1:{port}"))).collect();
    Model::new(Setup { nodes, nodes_are_ours: ours, services, contenders, writes_per_second: 200 })
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        let words = Words::new(command);
        match command.name.as_str() {
            "setup" => {
                let number = |name, default| words.named(name).unwrap_or(Ok(default));
                let (nodes, services) = (number("nodes", 3)?, number("services", 200)?);
                self.model = model(nodes, services, number("contenders", 5)?, words.text(0).is_err());
            }
            "at" => {
                self.now = Duration::try_from_secs_f64(words.text(0)?.parse()?)?;
                self.model.advance(self.now);
            }
            "missed" => self.model.missed = words.number(0)?,
            "acks" => self.acks(&words)?,
            "key" => return self.key(words.text(0)?),
            "draw" => return Ok(as_text(&self.frame(words.number(0)?, words.number(1)?, true))),
            "styles" => return Ok(as_styles(&self.frame(words.number(0)?, words.number(1)?, true))),
            name => {
                for news in self.news(name, &words)? {
                    self.model.apply(self.now, news);
                }
            }
        }
        Ok(String::new())
    }
}

impl Runner {
    fn frame(&self, width: u16, height: u16, colour: bool) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, &self.model, self.now, Theme::new(colour))).expect("a frame");
        terminal.backend().buffer().clone()
    }

    fn key(&mut self, key: &str) -> Outcome<String> {
        let meaning = pressed(key.parse()?, &self.model, self.now);
        if let Pressed::Select(node) = meaning {
            self.model.nodes.selected = node;
        }
        Ok(format!("{meaning:?}"))
    }

    fn acks(&mut self, words: &Words<'_>) -> Outcome<()> {
        let (every, latency): (u64, u64) =
            (words.named("every").ok_or("every")??, words.named("latency").ok_or("latency")??);
        for _ in 0..words.number::<u32>(0)? {
            self.now += Duration::from_millis(every);
            self.model.apply(self.now, News::WriteAcked { at: self.now, latency: Duration::from_millis(latency) });
        }
        Ok(())
    }

    fn news(&self, name: &str, words: &Words<'_>) -> Outcome<Vec<News>> {
        let service = || Ok::<_, Box<dyn Error>>(words.number::<usize>(0)? - 1);
        let contender = || words.text(0).map(str::to_owned);
        let one = match name {
            "phase" => News::Phase(match words.text(0)? {
                "starting" => Phase::Starting,
                "running" => Phase::Running,
                "checking" => Phase::Checking,
                other => return Err(format!("no phase {other}").into()),
            }),
            "status" => self.status(words)?,
            "process" => News::ProcessIs {
                node: node(words.text(0)?)?,
                process: match words.text(1)? {
                    "running" => Process::Running,
                    "paused" => Process::Paused,
                    "gone" => Process::Gone,
                    other => return Err(format!("no state {other}").into()),
                },
            },
            "begin" => {
                let (node, verb) = (words.text(0)?, verb(words.text(1)?)?);
                let line = format!("TENURE_CLUSTER_DIR=.demo cluster-scripts/{} {node}", verb.script());
                News::CommandBegan { node: self::node(node)?, verb, line }
            }
            "done" => News::CommandEnded {
                node: node(words.text(0)?)?,
                verb: verb(words.text(1)?)?,
                problem: words.text(2).ok().map(str::to_owned),
            },
            "grant" | "renew" => return self.leases(name, words),
            "stop" => News::LeaseStopped { service: service()? },
            "end" => {
                let service = service()?;
                let overdue_from = self.model.services.services[service].due();
                News::LeaseEnded { service, seen: self.now, overdue_from }
            }
            "queue" => News::LockQueue { places: words.places()? },
            "taken" => News::LockTaken { contender: contender()?, token: words.number(1)?, at: self.now },
            "freed" => News::LockFreed { contender: contender()?, at: self.now },
            "lost" => News::LockLost { contender: contender()? },
            "unanswered" => return Ok(vec![News::WriteUnanswered; words.number(0)?]),
            "say" => News::Said { kind: kind(words.text(0)?)?, text: words.text(1)?.to_owned() },
            other => return Err(format!("no command {other}").into()),
        };
        Ok(vec![one])
    }

    fn status(&self, words: &Words<'_>) -> Outcome<News> {
        let at = node(words.text(0)?)?;
        let leader = match words.named::<String>("leader").ok_or("leader")??.as_str() {
            "none" => 0,
            name => node(name)? as u64 + 1,
        };
        let answer = Answer {
            member: at as u64 + 1,
            leader,
            term: words.named("term").ok_or("term")??,
            revision: words.named("revision").ok_or("revision")??,
            applied: words.named("applied").ok_or("applied")??,
        };
        Ok(News::Answered { node: at, answer })
    }

    fn leases(&self, name: &str, words: &Words<'_>) -> Outcome<Vec<News>> {
        let (from, to): (usize, usize) = (words.number(0)?, words.number(1)?);
        let ttl = Duration::from_secs(words.named("ttl").ok_or("ttl")??);
        let sent = self.now;
        let news = |service| match name {
            "grant" => News::LeaseGranted { service, sent, ttl },
            _ => News::LeaseRenewed { service, sent, ttl },
        };
        Ok((from - 1..to).map(news).collect())
    }
}

/// A command's arguments.
struct Words<'a> {
    positional: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(command: &'a Command) -> Self {
        let mut words = Self { positional: Vec::new(), named: BTreeMap::new() };
        for argument in &command.args {
            match argument {
                goldenscript::Argument::Positional(text) => words.positional.push(text),
                goldenscript::Argument::KeyValue(name, value) => {
                    words.named.insert(name, value);
                }
                _ => unreachable!("there are two kinds of arguments"),
            }
        }
        words
    }

    fn text(&self, place: usize) -> Outcome<&'a str> {
        self.positional.get(place).copied().ok_or_else(|| format!("argument {place} is missing").into())
    }

    fn number<T: std::str::FromStr<Err: Error + 'static>>(&self, place: usize) -> Outcome<T> {
        Ok(self.text(place)?.parse()?)
    }

    fn named<T: std::str::FromStr<Err: Error + 'static>>(&self, name: &str) -> Option<Outcome<T>> {
        self.named.get(name).map(|value| Ok(value.parse()?))
    }

    /// `c1=10 c2=12`.
    fn places(&self) -> Outcome<Vec<Place>> {
        let place = |(contender, token): (&&str, &&str)| {
            Ok(Place { contender: (*contender).to_owned(), token: token.parse()? })
        };
        let mut places = self.named.iter().map(place).collect::<Outcome<Vec<_>>>()?;
        places.sort_by_key(|place| place.token);
        Ok(places)
    }
}

fn node(name: &str) -> Outcome<usize> {
    Ok(name.strip_prefix('n').ok_or("nodes are n1 to n5")?.parse::<usize>()? - 1)
}

fn verb(name: &str) -> Outcome<Verb> {
    let all = [Verb::Kill, Verb::Pause, Verb::Resume, Verb::Restart];
    all.into_iter().find(|verb| verb.script() == name).ok_or_else(|| format!("no script {name}").into())
}

fn kind(name: &str) -> Outcome<Kind> {
    match name {
        "check" => Ok(Kind::Check),
        "problem" => Ok(Kind::Problem),
        other => Err(format!("no kind {other}").into()),
    }
}

/// Each row behind a bar, without the blanks at its end.
fn as_text(buffer: &Buffer) -> String {
    rows(buffer, |cell| cell.symbol().to_owned())
}

/// A letter for each cell's looks: bold, dim and reversed without a colour; coloured letters in upper case if bold.
fn as_styles(buffer: &Buffer) -> String {
    rows(buffer, |cell| {
        let bold = cell.modifier.contains(Modifier::BOLD);
        let letter = match cell.fg {
            _ if cell.modifier.contains(Modifier::REVERSED) => '#',
            Color::Green => 'g',
            Color::Yellow => 'y',
            Color::Red => 'r',
            Color::Cyan => 'c',
            _ if bold => 'b',
            _ if cell.modifier.contains(Modifier::DIM) => '.',
            _ if cell.symbol() == " " => ' ',
            _ => '-',
        };
        if bold && letter != 'b' { letter.to_ascii_uppercase().to_string() } else { letter.to_string() }
    })
}

fn rows(buffer: &Buffer, cell: impl Fn(&ratatui::buffer::Cell) -> String) -> String {
    let width = usize::from(buffer.area.width);
    let row = |cells: &[ratatui::buffer::Cell]| {
        format!("|{}", cells.iter().map(&cell).collect::<String>()).trim_end().to_owned()
    };
    buffer.content().chunks(width).map(row).collect::<Vec<_>>().join("\n")
}
