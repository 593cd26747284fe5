//! A proxy before an S3 server that answers wrongly when it is told to, and keeps account of what was stored.
//!
//! Requests are handed on byte for byte (their signature covers the proxy's own address, which the server is told), so
//! that policies, conditions and checksums are the real server's. Invariant: without rules it is invisible, and what
//! it notes in [`Account`] is what the server confirmed, whatever the client was told.

use std::collections::HashMap;
use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::faults::{Op, Rule, S3Fault, add_ghost, error, error_in_200, remove_entry};
use super::server::S3Server;
use crate::net::http::{BodyOf, Message};

/// Bodies kept to be handed out in the place of others.
const KEPT_BODIES: usize = 16;
const KEPT_BODY_BYTES_MAX: usize = 2 << 20;
/// A client that is silent for so long has forgotten its connection.
const IDLE: Duration = Duration::from_secs(120);

/// A proxy before an [`S3Server`].
#[derive(Debug)]
pub struct S3Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// What went through so far.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// How often each fault happened.
    pub faults: HashMap<String, u64>,
    /// Requests, by what they asked for.
    pub requests: HashMap<Op, u64>,
    /// Keys that the server confirmed a second body for, another one than the first.
    pub overwritten: Vec<String>,
    /// Keys that the server confirmed to have removed.
    pub deleted: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    ended: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    rng: StdRng,
    account: Account,
    stored: HashMap<String, [u8; 32]>,
    bodies: Vec<(String, Vec<u8>)>,
}

impl S3Proxy {
    /// Listens on a port of its own; `seed` decides what is left to chance.
    pub fn start(server: &S3Server, seed: u64) -> S3Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let inner = Inner {
            rules: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            account: Account::default(),
            stored: HashMap::new(),
            bodies: Vec::new(),
        };
        let shared = Arc::new(Shared {
            target: server.port(),
            ended: AtomicBool::new(false),
            inner: Mutex::new(inner),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || serve(&listener, &serving));
        S3Proxy { port, shared }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The port of [`S3Proxy::endpoint`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds a rule; of several that fit a request the first counts.
    pub fn rule(&self, rule: Rule) {
        self.shared.inner().rules.push(rule);
    }

    /// Takes all rules away.
    pub fn heal(&self) {
        self.shared.inner().rules.clear();
    }

    /// What went through so far.
    pub fn account(&self) -> Account {
        self.shared.inner().account.clone()
    }

    /// How many faults there were so far.
    pub fn faults(&self) -> u64 {
        self.shared.inner().account.faults.values().sum()
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if it has ended already, there is nothing to wake.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let shared = Arc::clone(shared);
        // Whatever goes wrong with a connection, the client learns it by its end.
        std::thread::spawn(move || Session::open(&client, &shared).and_then(|mut session| session.serve()));
    }
}

/// One connection of a client, and ours to the server.
struct Session<'a> {
    client: &'a TcpStream,
    requests: BufReader<&'a TcpStream>,
    server: Option<BufReader<TcpStream>>,
    shared: &'a Shared,
}

/// What was asked, and about which key (of a listing: below which prefix).
struct Asked {
    request: Message,
    op: Op,
    key: String,
}

impl<'a> Session<'a> {
    fn open(client: &'a TcpStream, shared: &'a Shared) -> io::Result<Session<'a>> {
        client.set_read_timeout(Some(IDLE))?;
        client.set_nodelay(true)?;
        Ok(Session {
            client,
            requests: BufReader::new(client),
            server: None,
            shared,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        while let Some(request) = Message::read(&mut self.requests, BodyOf::Request)? {
            let asked = Asked::new(request)?;
            let strike = self.shared.inner().strike(asked.op, &asked.key);
            let goes_on = match strike {
                Some((fault, part)) => self.answer_wrongly(&asked, fault, &part)?,
                None => {
                    let answer = self.hand_on(&asked)?;
                    self.answer(&answer)?;
                    true
                }
            };
            if !goes_on || self.shared.ended.load(Ordering::SeqCst) {
                break;
            }
        }
        self.client.shutdown(Shutdown::Both)
    }

    /// Does the fault; false where the connection ends with it.
    fn answer_wrongly(&mut self, asked: &Asked, fault: S3Fault, part: &str) -> io::Result<bool> {
        let mut answer = match fault.hands_on() {
            true => self.hand_on(asked)?,
            false => error(500, asked.op),
        };
        let done = match fault {
            S3Fault::Before(status) | S3Fault::After(status) => {
                answer = error(status, asked.op);
                true
            }
            S3Fault::ErrorIn200 => {
                answer = error_in_200(asked.op);
                true
            }
            S3Fault::HangupBefore | S3Fault::HangupAfter => true,
            S3Fault::GhostEntry => add_ghost(&mut answer, part),
            S3Fault::MissingEntry => remove_entry(&mut answer, part),
            S3Fault::OtherBody => self.shared.inner().exchange_body(&asked.key, &mut answer),
            S3Fault::CutBody | S3Fault::ShortBody | S3Fault::FlipBody => {
                answer.status().is_some_and(|status| status < 300) && !answer.body.is_empty()
            }
        };
        if done {
            self.shared.inner().count(fault);
        }
        match fault {
            S3Fault::HangupBefore | S3Fault::HangupAfter => return Ok(false),
            S3Fault::CutBody if done => return self.cut(&answer),
            S3Fault::ShortBody if done => {
                answer.body.truncate(answer.body.len() / 2);
                answer.set("Content-Length", &answer.body.len().to_string());
            }
            S3Fault::FlipBody if done => {
                let at = self.shared.inner().rng.random_range(0..answer.body.len());
                answer.body[at] ^= 0x10;
            }
            _ => {}
        }
        self.answer(&answer)?;
        Ok(true)
    }

    fn cut(&mut self, answer: &Message) -> io::Result<bool> {
        self.client.write_all(&answer.head())?;
        self.client.write_all(&answer.body[..answer.body.len() / 2])?;
        Ok(false)
    }

    fn answer(&mut self, answer: &Message) -> io::Result<()> {
        answer.write(&mut self.client)
    }

    /// Asks the server; a connection that it has closed meanwhile is made anew, once.
    fn hand_on(&mut self, asked: &Asked) -> io::Result<Message> {
        let kept = self.server.is_some();
        let answer = match self.ask(asked) {
            Err(_) if kept => {
                self.server = None;
                self.ask(asked)
            }
            other => other,
        };
        if answer.is_err() {
            self.server = None;
        }
        let answer = answer?;
        self.shared.inner().note(asked, &answer);
        Ok(answer)
    }

    fn ask(&mut self, asked: &Asked) -> io::Result<Message> {
        if self.server.is_none() {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.shared.target))?;
            stream.set_nodelay(true)?;
            self.server = Some(BufReader::new(stream));
        }
        let server = self.server.as_mut().expect("it was connected just now");
        asked.request.write(server.get_mut())?;
        let body_of = if asked.op == Op::Head {
            BodyOf::Nothing
        } else {
            BodyOf::Response
        };
        Message::read(server, body_of)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Asked {
    fn new(request: Message) -> io::Result<Asked> {
        let unheard = || io::Error::new(io::ErrorKind::InvalidData, "not a request that pgkeep makes");
        let (method, target) = request.request().ok_or_else(unheard)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let op = match method {
            "PUT" => Op::Put,
            "GET" if query.contains("list-type=2") => Op::List,
            "GET" => Op::Get,
            "HEAD" => Op::Head,
            "DELETE" => Op::Delete,
            _ => return Err(unheard()),
        };
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix="));
        let key = match op {
            Op::List => prefix.unwrap_or_default().replace("%2F", "/"),
            _ => path.to_owned(),
        };
        Ok(Asked { request, op, key })
    }
}

impl Inner {
    fn strike(&mut self, op: Op, key: &str) -> Option<(S3Fault, String)> {
        let Inner { rules, rng, .. } = self;
        rules.iter_mut().find_map(|rule| rule.strikes(op, key, rng))
    }

    fn count(&mut self, fault: S3Fault) {
        *self.account.faults.entry(format!("{fault:?}")).or_default() += 1;
    }

    fn note(&mut self, asked: &Asked, answer: &Message) {
        *self.account.requests.entry(asked.op).or_default() += 1;
        if answer.status().is_none_or(|status| status >= 300) {
            return;
        }
        match asked.op {
            Op::Put => {
                let hash = *blake3::hash(&asked.request.body).as_bytes();
                if self
                    .stored
                    .insert(asked.key.clone(), hash)
                    .is_some_and(|before| before != hash)
                {
                    self.account.overwritten.push(asked.key.clone());
                }
            }
            Op::Delete => {
                self.stored.remove(&asked.key);
                self.account.deleted.push(asked.key.clone());
            }
            Op::Get if answer.body.len() <= KEPT_BODY_BYTES_MAX => {
                if self.bodies.len() == KEPT_BODIES {
                    self.bodies.remove(0);
                }
                self.bodies.push((asked.key.clone(), answer.body.clone()));
            }
            _ => {}
        }
    }

    /// Puts another object's body into an answer; false where there is none of that length.
    fn exchange_body(&mut self, key: &str, answer: &mut Message) -> bool {
        let fits = |(other, body): &&(String, Vec<u8>)| {
            other != key && body.len() >= answer.body.len() && body[..answer.body.len()] != answer.body
        };
        let Some((_, body)) = self.bodies.iter().find(fits) else {
            return false;
        };
        answer.body = body[..answer.body.len()].to_vec();
        true
    }
}
