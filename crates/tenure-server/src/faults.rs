//! The port at which faults are put into this member: failpoints as etcd's gofail serves them, the clock, and partitions.
//!
//! It has a thread and a runtime of its own, so that it answers while a fault makes everything else stand still, and it
//! serves before the member does. Each connection carries one request and is then closed: so it is known when an answer is
//! out, and a fault that ends the process can wait for that. Only a build made for it ever gets here, see
//! [`tenure_faults::INJECTS`], and only on loopback.

mod cut;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tenure_core::planted::{self, NoSuchBug, Planted};
use tenure_faults::{Answering, ClockOffset, Point, Registry};
use tenure_raft::{Cut, Partition};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// A script has one or two at a time.
const CONNECTIONS_MAX: usize = 32;

/// The longest term many times over.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What a connection may take in all: a client on the same machine that is slower has gone.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted: files may be at their limit.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Begins to listen, and serves for as long as the process lives.
pub(crate) fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let partition = tenure_raft::partition();
    let faults = Arc::new(Faults { registry: tenure_faults::registry(), clock: tenure_faults::clock(), partition });
    thread::Builder::new().name("faults".to_owned()).spawn(move || {
        let ended = runtime.block_on(accept(listener, faults));
        if let Err(error) = ended {
            tracing::error!(%error, "the port for faults stopped serving");
        }
    })?;
    tracing::warn!(%address, "fault injection is on: whoever reaches this address can end this member");
    Ok(())
}

async fn accept(listener: TcpListener, faults: Arc<Faults<'static>>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let faults = faults.clone();
                // Ends by itself within the time-out.
                drop(tokio::spawn(async move {
                    answer_one(stream, &faults).await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the port for faults was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request of a connection, and closes it.
async fn answer_one(stream: TcpStream, faults: &Faults<'_>) {
    // Held from the request on until the answer has left.
    let answering: Mutex<Option<Answering>> = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        answering.lock().get_or_insert_with(Answering::begin);
        Ok::<_, Infallible>(answer(faults, request).await)
    });
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the port for faults broke"),
        Err(_) => tracing::debug!("a connection to the port for faults was too slow"),
    }
}

async fn answer<B>(faults: &Faults<'_>, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Err(error) => Answer::bad(format!("the body: {error}")),
        Ok(body) => match str::from_utf8(&body.to_bytes()) {
            Err(_) => Answer::bad("the body is no text"),
            Ok(body) => faults.answer(&head.method, head.uri.path().trim_start_matches('/'), body),
        },
    };
    answer.into_response()
}

/// Status and text.
#[derive(Debug, PartialEq, Eq)]
struct Answer(StatusCode, String);

impl Answer {
    fn ok(text: impl Into<String>) -> Answer {
        Answer(StatusCode::OK, text.into())
    }

    fn done() -> Answer {
        Answer(StatusCode::NO_CONTENT, String::new())
    }

    fn bad(why: impl Into<String>) -> Answer {
        Answer(StatusCode::BAD_REQUEST, why.into() + "\n")
    }

    fn unknown(what: &str) -> Answer {
        Answer(StatusCode::NOT_FOUND, format!("there is no failpoint {what}\n"))
    }

    fn of(result: Result<(), impl ToString>) -> Answer {
        result.map_or_else(|error| Answer::bad(error.to_string()), |()| Answer::done())
    }

    fn not_allowed() -> Answer {
        Answer(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here\n".to_owned())
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.1));
        *response.status_mut() = self.0;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

/// The bugs that can be switched on, one a line, and whether they are.
fn planted_bugs(method: &Method) -> Answer {
    if method != Method::GET {
        return Answer::not_allowed();
    }
    let line = |bug: &Planted| format!("{}={}\n", bug.name, if planted::is_on(bug.bug) { "on" } else { "" });
    Answer::ok(planted::ALL.iter().map(line).collect::<String>())
}

/// Switches a planted bug on, for as long as the process lives.
fn plant(method: &Method, name: &str) -> Answer {
    if method != Method::PUT {
        return Answer::not_allowed();
    }
    match planted::switch_on(name) {
        Ok(_) => {
            tracing::warn!(name, "a planted bug is let loose");
            Answer::done()
        }
        Err(error @ NoSuchBug::NotCompiledIn) => Answer::bad(error.to_string()),
        Err(error @ NoSuchBug::Unknown) => Answer(StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

/// What can be set.
struct Faults<'a> {
    registry: &'a Registry,
    clock: &'a ClockOffset,
    partition: Partition,
}

impl Faults<'_> {
    fn answer(&self, method: &Method, path: &str, body: &str) -> Answer {
        match path {
            "" => self.list(method),
            "failpoints" => self.all(method, body),
            "clock" => self.clock(method, body),
            "partition" => self.partition(method, body),
            "planted" => planted_bugs(method),
            name if name.starts_with("planted/") => plant(method, name.trim_start_matches("planted/")),
            name => match name.strip_suffix("/count") {
                Some(name) => self.count(method, name),
                None => self.one(method, name, body),
            },
        }
    }

    fn list(&self, method: &Method) -> Answer {
        if method != Method::GET {
            return Answer::not_allowed();
        }
        let mut lines: Vec<_> =
            Point::all().map(|point| format!("{}={}\n", point.name(), self.registry.text(point))).collect();
        lines.sort();
        Answer::ok(lines.concat())
    }

    fn all(&self, method: &Method, body: &str) -> Answer {
        match *method {
            Method::PUT => Answer::of(self.registry.set_all(body)),
            Method::DELETE => {
                self.registry.clear_all();
                Answer::done()
            }
            _ => Answer::not_allowed(),
        }
    }

    fn one(&self, method: &Method, name: &str, body: &str) -> Answer {
        let Some(point) = Point::named(name) else { return Answer::unknown(name) };
        match *method {
            Method::GET => Answer::ok(self.registry.text(point) + "\n"),
            Method::PUT => Answer::of(self.registry.set(name, body)),
            Method::DELETE => {
                self.registry.clear(point);
                Answer::done()
            }
            _ => Answer::not_allowed(),
        }
    }

    fn count(&self, method: &Method, name: &str) -> Answer {
        match Point::named(name) {
            None => Answer::unknown(name),
            Some(point) if method == Method::GET => Answer::ok(self.registry.fired(point).to_string()),
            Some(_) => Answer::not_allowed(),
        }
    }

    fn clock(&self, method: &Method, body: &str) -> Answer {
        match *method {
            Method::GET => Answer::ok(format!("{}\n", self.clock.get().as_millis())),
            Method::PUT => match body.trim().parse() {
                Ok(millis) => Answer::of(self.clock.raise(Duration::from_millis(millis))),
                Err(_) => Answer::bad("expected a whole number of milliseconds"),
            },
            _ => Answer::not_allowed(),
        }
    }

    fn partition(&self, method: &Method, body: &str) -> Answer {
        let cut = match *method {
            Method::GET => return Answer::ok(cut::write(&self.partition.get()) + "\n"),
            Method::DELETE => Ok(Cut::default()),
            Method::PUT => cut::read(body),
            _ => return Answer::not_allowed(),
        };
        Answer::of(cut.map(|cut| self.partition.set(cut)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(faults: &Faults<'_>, method: &Method, path: &str, body: &str) -> (u16, String) {
        let Answer(status, text) = faults.answer(method, path, body);
        (status.as_u16(), text)
    }

    #[test]
    fn failpoints_are_set_read_counted_and_cleared() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        let (get, put, delete) = (&Method::GET, &Method::PUT, &Method::DELETE);
        assert_eq!(ask(&faults, put, "walBeforeSync", "1*return(\"EIO\")"), (204, String::new()));
        assert_eq!(ask(&faults, get, "walBeforeSync", ""), (200, "1*return(\"EIO\")\n".to_owned()));
        assert_eq!(ask(&faults, get, "walBeforeSync/count", ""), (200, "0".to_owned()));
        registry.hit(Point::WalBeforeSync).unwrap_err();
        assert_eq!(ask(&faults, get, "walBeforeSync/count", ""), (200, "1".to_owned()));
        assert_eq!(ask(&faults, delete, "walBeforeSync", ""), (204, String::new()));
        assert_eq!(ask(&faults, get, "walBeforeSync", ""), (200, "\n".to_owned()));
        assert_eq!(ask(&faults, put, "failpoints", "afterCommit=print;beforeCommit=sleep(1)"), (204, String::new()));
        let (status, list) = ask(&faults, get, "", "");
        assert_eq!((status, list.lines().count()), (200, Point::COUNT));
        assert!(list.starts_with("afterCommit=print\nafterFlush=\n"), "{list}");
        assert_eq!(ask(&faults, delete, "failpoints", ""), (204, String::new()));
        assert_eq!(registry.text(Point::AfterCommit), "");
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_reason() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        for (method, path, body, status) in [
            (Method::PUT, "nowhere", "print", 404),
            (Method::GET, "nowhere", "", 404),
            (Method::GET, "nowhere/count", "", 404),
            (Method::DELETE, "nowhere", "", 404),
            (Method::PUT, "beforeCommit", "explode", 400),
            (Method::PUT, "raftBeforeLeaderSend", "return", 400),
            (Method::PUT, "failpoints", "beforeCommit=print;nowhere=print", 400),
            (Method::POST, "beforeCommit", "print", 405),
            (Method::PUT, "beforeCommit/count", "5", 405),
            (Method::PUT, "", "print", 405),
            (Method::GET, "failpoints", "", 405),
            (Method::PUT, "clock", "-1", 400),
            (Method::PUT, "clock", "18446744073709551615", 400),
            (Method::DELETE, "clock", "", 405),
            (Method::PUT, "partition", "n1", 400),
            (Method::POST, "partition", "{}", 405),
            (Method::DELETE, "planted/stale-tail", "", 405),
            (Method::PUT, "planted", "", 405),
            // None are compiled in, or there is none of this name.
            (Method::PUT, "planted/nothing", "", if planted::COMPILED_IN { 404 } else { 400 }),
        ] {
            let (found, text) = ask(&faults, &method, path, body);
            assert_eq!(found, status, "{method} {path} {body}: {text}");
            assert!(text.len() > 1, "{method} {path} {body} gives no reason");
        }
        assert!(Point::all().all(|point| registry.text(point).is_empty()));
    }

    #[test]
    fn planted_bugs_are_listed_and_none_is_on() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        let (status, list) = ask(&faults, &Method::GET, "planted", "");
        assert_eq!((status, list.lines().count()), (200, planted::ALL.len()));
        assert!(list.lines().all(|line| line.ends_with('=')), "{list}");
    }

    #[test]
    fn the_clock_is_set_forward() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        assert_eq!(ask(&faults, &Method::GET, "clock", ""), (200, "0\n".to_owned()));
        assert_eq!(ask(&faults, &Method::PUT, "clock", " 5000\n"), (204, String::new()));
        assert_eq!(ask(&faults, &Method::PUT, "clock", "4999").0, 400);
        assert_eq!(ask(&faults, &Method::GET, "clock", ""), (200, "5000\n".to_owned()));
        assert_eq!(clock.get(), Duration::from_secs(5));
    }

    #[test]
    fn a_partition_is_made_and_heals() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        let none = (200, "{\"block_from\":[],\"block_to\":[]}\n".to_owned());
        assert_eq!(ask(&faults, &Method::GET, "partition", ""), none);
        assert_eq!(ask(&faults, &Method::PUT, "partition", "{\"block_to\":[\"a\"]}").0, 204);
        let cut = (200, "{\"block_from\":[],\"block_to\":[\"a\"]}\n".to_owned());
        assert_eq!(ask(&faults, &Method::GET, "partition", ""), cut);
        assert_eq!(ask(&faults, &Method::DELETE, "partition", "").0, 204);
        assert_eq!(faults.partition.get(), Cut::default());
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_or_no_text_is_refused() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
        for body in [vec![b'x'; BODY_BYTES_MAX + 1], vec![0xff]] {
            let request = Request::put("/beforeCommit").body(Full::new(Bytes::from(body))).unwrap();
            assert_eq!(answer(&faults, request).await.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[tokio::test]
    async fn a_connection_carries_one_request() {
        let (registry, clock) = (Registry::new(), ClockOffset::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"PUT /clock HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n7";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let faults = Faults { registry: &registry, clock: &clock, partition: Partition::default() };
            answer_one(listener.accept().await.unwrap().0, &faults).await;
        };
        let (answer, ()) = tokio::join!(client, server);
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        assert_eq!(clock.get(), Duration::from_millis(7));
    }
}
