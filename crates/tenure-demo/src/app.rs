//! Joins the session with the screen, the keys and the signals, and makes sure that the nodes are stopped.

use std::io::{self, Write as _};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::audit::Report;
use crate::autopilot::{Autopilot, Schedule};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::keys::{Pressed, pressed};
use crate::limits::{CONTROL_QUEUE, NEWS_QUEUE};
use crate::load::{Amount, Teller};
use crate::model::{Kind, Model, News, Phase, Setup};
use crate::options::Options;
use crate::screen::{Input, Lines, Screen, Terminal};
use crate::session::{Order, Session, own_nodes};
use crate::store::Store;
use crate::view::Theme;

/// Ten frames a second: bars move smoothly, and a slow line to the terminal keeps up.
const FRAME_EVERY: Duration = Duration::from_millis(100);
const USAGE: u8 = 2;

type Panic = Box<dyn std::any::Any + Send>;

/// How a run ended.
enum Ending {
    Reported(Report),
    /// It was given up before the report, for this reason and with this exit code.
    GivenUp(&'static str, u8),
}

/// Runs the demo; everything that a person should know is printed.
pub async fn run(options: Options) -> ExitCode {
    if let Some(why) = Terminal::missing().filter(|_| !options.headless) {
        say(&format!("tenure-demo draws on a terminal, and {why}. Without one, use --headless --duration 30s.\n"));
        return ExitCode::from(USAGE);
    }
    match prepared(&options).await {
        Ok(code) => code,
        Err(error) => {
            say(&format!("tenure-demo: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn prepared(options: &Options) -> anyhow::Result<ExitCode> {
    let cluster = if options.endpoints.is_empty() {
        Some(Arc::new(Cluster::claim(&options.scripts, &options.dir, options.nodes)?))
    } else {
        None
    };
    let panic_text = keep_panics();
    let ending = AssertUnwindSafe(front(options, cluster.clone())).catch_unwind().await;
    // The terminal is itself again. Whatever happened, the nodes are stopped now.
    if let Some(text) = panic_text.lock().unwrap_or_else(PoisonError::into_inner).take() {
        say(&format!("tenure-demo: {text}\n"));
    }
    let (is_of_interest, code) = tell(ending);
    if let Some(cluster) = cluster.filter(|cluster| cluster.is_started()) {
        say("Stopping the nodes.\n");
        cluster.stop(!is_of_interest).await.context("the nodes could not be stopped")?;
        if is_of_interest {
            say(&format!("Their logs and data are in {} until the next run.\n", cluster.dir().display()));
        }
    }
    Ok(code)
}

/// Prints how the run ended; answers whether something is wrong that the nodes' data could explain, and the exit code.
fn tell(ending: Result<anyhow::Result<Ending>, Panic>) -> (bool, ExitCode) {
    match ending {
        // Its words have been printed.
        Err(_) => (true, ExitCode::FAILURE),
        Ok(Err(error)) => {
            say(&format!("tenure-demo: {error:#}\n"));
            (true, ExitCode::FAILURE)
        }
        Ok(Ok(Ending::GivenUp(why, code))) => {
            say(&format!("Given up ({why}): nothing was checked.\n"));
            (false, ExitCode::from(code))
        }
        Ok(Ok(Ending::Reported(report))) => {
            say(&report.to_string());
            (!report.is_good(), if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// A panic must not write into the screen: its words are kept and printed when the terminal is itself again.
fn keep_panics() -> Arc<Mutex<Option<String>>> {
    let kept = Arc::new(Mutex::new(None));
    let keeper = Arc::clone(&kept);
    std::panic::set_hook(Box::new(move |panic| {
        keeper.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| panic.to_string());
    }));
    kept
}

/// Shows and steers one session to its end. When it returns, the terminal is itself again.
async fn front(options: &Options, cluster: Option<Arc<Cluster>>) -> anyhow::Result<Ending> {
    let nodes = match &cluster {
        Some(cluster) => own_nodes(cluster),
        None => {
            let numbered = options.endpoints.iter().enumerate();
            numbered.map(|(at, endpoint)| (format!("#{}", at + 1), endpoint.clone())).collect()
        }
    };
    let endpoints: Vec<String> = nodes.iter().map(|(_, endpoint)| endpoint.clone()).collect();
    let (news, told) = mpsc::channel(NEWS_QUEUE);
    let (orders, taken) = mpsc::channel(CONTROL_QUEUE);
    let teller = Teller::new(news);
    let clock = Clock::start();
    let session = Session {
        store: Store::new(&endpoints)?,
        cluster,
        node_names: nodes.iter().map(|(name, _)| name.clone()).collect(),
        amount: Amount {
            services: options.services,
            lease_ttl_secs: options.ttl,
            contenders: options.contenders,
            writes_per_second: options.rate,
        },
        clock,
        teller: teller.clone(),
    };
    let setup = Setup {
        nodes,
        nodes_are_ours: options.endpoints.is_empty(),
        services: options.services,
        contenders: options.contenders,
        writes_per_second: options.rate,
    };
    let mut signals = Signals::new()?;
    let screen = if options.headless {
        Screen::Lines(Lines::default())
    } else {
        Screen::Terminal(Box::new(Terminal::take(Theme::from_env())?))
    };
    let mut front = Front {
        screen,
        model: Model::new(setup),
        clock,
        told,
        orders,
        teller,
        autopilot: Autopilot::new(Schedule {
            kill_leader_every: options.kill_leader_every,
            stop_renewing_every: options.stop_renewing_every,
            finish_after: options.duration,
        }),
        is_finishing: false,
    };
    let mut session = tokio::spawn(session.run(taken));
    let ending = front.until_end(&mut session, &mut signals).await;
    if !session.is_finished() {
        session.abort();
        // It is cut off; what it came to is of no interest any more.
        session.await.ok();
    }
    ending
}

const INTERRUPTED: Ending = Ending::GivenUp("interrupted", 130);
const SCREEN_GONE: Ending = Ending::GivenUp("the screen is gone", 129);
const TERMINATED: Ending = Ending::GivenUp("terminated", 143);

/// The viewer's side.
struct Front {
    screen: Screen,
    model: Model,
    clock: Clock,
    told: mpsc::Receiver<News>,
    orders: mpsc::Sender<Order>,
    teller: Teller,
    autopilot: Autopilot,
    is_finishing: bool,
}

impl Front {
    async fn until_end(
        &mut self,
        session: &mut JoinHandle<anyhow::Result<Report>>,
        signals: &mut Signals,
    ) -> anyhow::Result<Ending> {
        let mut frames = interval(FRAME_EVERY);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                ended = &mut *session => {
                    self.take_news();
                    // The report is printed even if the screen cannot show the last events.
                    self.draw();
                    let mut report = ended??;
                    report.figures.extend(self.figures());
                    return Ok(Ending::Reported(report));
                }
                _ = frames.tick() => {
                    self.take_news();
                    self.advance();
                }
                input = self.screen.input() => {
                    self.take_news();
                    match input {
                        Input::Key(key) => self.key(key),
                        Input::Interrupt if !self.interrupt() => return Ok(INTERRUPTED),
                        Input::Interrupt | Input::Resized => {}
                        Input::Closed => return Ok(SCREEN_GONE),
                    }
                }
                received = signals.next() => match received {
                    Received::Interrupt if self.interrupt() => {}
                    Received::Interrupt => return Ok(INTERRUPTED),
                    Received::HangUp => return Ok(SCREEN_GONE),
                    Received::Terminate => return Ok(TERMINATED),
                },
            }
            if !self.draw() {
                return Ok(SCREEN_GONE);
            }
        }
    }

    /// Answers false when nobody can see it any more.
    fn draw(&mut self) -> bool {
        self.screen.draw(&self.model, self.clock.now()).is_ok()
    }

    fn take_news(&mut self) {
        let now = self.clock.now();
        // What arrives meanwhile waits for the next frame.
        for _ in 0..NEWS_QUEUE {
            let Ok(news) = self.told.try_recv() else { break };
            self.model.apply(now, news);
        }
        self.model.missed = self.teller.missed();
    }

    fn advance(&mut self) {
        let now = self.clock.now();
        self.model.advance(now);
        for order in self.autopilot.due(now, &self.model) {
            self.order(order);
        }
    }

    fn key(&mut self, key: char) {
        let now = self.clock.now();
        match pressed(key, &self.model, now) {
            Pressed::Order(order) => self.order(order),
            Pressed::Select(node) => self.model.nodes.selected = node,
            Pressed::Refused(why) => self.model.events.add(now, Kind::Node, why),
            Pressed::Nothing => {}
        }
    }

    fn order(&mut self, order: Order) {
        if order == Order::Finish {
            self.is_finishing = true;
        }
        if self.orders.try_send(order).is_err() {
            let now = self.clock.now();
            self.model.events.add(now, Kind::Problem, "too many orders at a time: this one was dropped");
        }
    }

    /// The first interrupt is a `q`; answers false for the next one, and for one that nothing could be checked after.
    fn interrupt(&mut self) -> bool {
        let is_first = !self.is_finishing && self.model.phase == Phase::Running;
        if is_first {
            self.order(Order::Finish);
        }
        is_first
    }

    /// What the screen showed last, for the report.
    fn figures(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut figures = Vec::new();
        if let Some((gap, at)) = self.model.writes.longest_gap(now) {
            let at = crate::view::clock_text(at);
            figures.push(format!("the longest time without an ack was {:.2} s, until {at}", gap.as_secs_f64()));
        }
        if self.model.nodes.leader_changes > 0 {
            figures.push(format!("the leader changed {}", crate::view::times(self.model.nodes.leader_changes)));
        }
        if let Some(slowest) = self.model.lock.slowest_handover {
            figures.push(format!("the lock was handed over within {} ms at worst", slowest.as_millis()));
        }
        figures
    }
}

/// The signals that end a demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

enum Received {
    Interrupt,
    Terminate,
    HangUp,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::Interrupt,
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.hang_up.recv() => Received::HangUp,
        }
    }
}

/// Whoever closed the pipe has read enough.
fn say(text: &str) {
    io::stdout().write_all(text.as_bytes()).ok();
    io::stdout().flush().ok();
}
