//! A TCP proxy on loopback that misbehaves as networks do.
//!
//! Invariant: without trouble it is invisible. Trouble begins with the next byte, on connections that exist and on new
//! ones, and ends with [`TcpProxy::heal`] or once it has struck as often as was asked for. Dropping the proxy resets
//! whatever is open.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use super::records::Records;

/// How soon a waiting thread sees that its connection has ended or that the trouble is another one.
const TICK: Duration = Duration::from_millis(10);
const BUFFER_BYTES: usize = 64 << 10;
/// Pieces that follow each other sooner were sent at once.
const TOGETHER: Duration = Duration::from_millis(2);

/// One way in which a network fails. `after` counts the bytes of both directions of a connection from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Connections are reset as soon as they are made.
    Refuse,
    /// Connections are reset after so many bytes, as by a crashed peer or an impatient firewall.
    Reset {
        /// Bytes that still pass.
        after: u64,
    },
    /// After so many bytes the server seems to have said all; what the client still sends is lost.
    HalfClose {
        /// Bytes that still pass.
        after: u64,
    },
    /// After so many bytes nothing arrives any more and nothing says so. What was on its way arrives once that ends.
    BlackHole {
        /// Bytes that still pass.
        after: u64,
    },
    /// One byte at a time.
    Trickle {
        /// The pause after each.
        every: Duration,
    },
    /// Everything arrives so much later; what was sent at once arrives at once.
    Latency(Duration),
    /// Connections with TLS are reset in the middle of a record of the server's.
    CutRecord,
}

/// A proxy before a server on loopback.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl TcpProxy {
    /// Listens on a port of its own and connects to `target` on loopback.
    pub fn start(target: u16) -> TcpProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, target, &accepting));
        TcpProxy { port, shared }
    }

    /// Where to connect to, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Misbehaves from now on.
    pub fn set(&self, trouble: Trouble) {
        self.strike(trouble, u32::MAX);
    }

    /// Misbehaves until `times` connections have been struck.
    pub fn strike(&self, trouble: Trouble, times: u32) {
        self.shared.set(Some((trouble, times)));
    }

    /// Behaves from now on.
    pub fn heal(&self) {
        self.shared.set(None);
    }

    /// Resets all connections that there are.
    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections were struck or cut so far.
    pub fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// How many connections were made through it so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if it has ended already, there is nothing to wake.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

#[derive(Debug, Default)]
struct Shared {
    trouble: Mutex<State>,
    ended: AtomicBool,
    cuts: AtomicU64,
    struck: AtomicU64,
    connections: AtomicU64,
}

/// The present trouble, and a number that tells it from earlier ones.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    trouble: Option<Trouble>,
    times: u32,
    number: u64,
}

impl Shared {
    fn state(&self) -> State {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, trouble: Option<(Trouble, u32)>) {
        let mut state = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        state.trouble = trouble.map(|(trouble, _)| trouble);
        state.times = trouble.map_or(0, |(_, times)| times);
        state.number += 1;
    }

    /// Notes that a connection was struck by the trouble `number`.
    fn strike(&self, number: u64) {
        self.struck.fetch_add(1, Ordering::SeqCst);
        let mut state = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if state.number != number {
            return;
        }
        state.times = state.times.saturating_sub(u32::from(state.times != u32::MAX));
        if state.times == 0 {
            state.trouble = None;
        }
    }
}

fn accept(listener: &TcpListener, target: u16, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let state = shared.state();
        if state.trouble == Some(Trouble::Refuse) {
            reset_when_closed(&client);
            shared.strike(state.number);
            continue;
        }
        // Where the server is down, the client learns it as it would without us.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
            reset_when_closed(&client);
            continue;
        };
        let link = Arc::new(Link::new(client, server, Arc::clone(shared)));
        let up = Arc::clone(&link);
        std::thread::spawn(move || up.pump(&up.client, &up.server, false));
        std::thread::spawn(move || link.pump(&link.server, &link.client, true));
    }
}

fn reset_when_closed(stream: &TcpStream) {
    // A socket that has failed already needs no reset.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// One connection through the proxy. Both sockets close when both pumps have ended.
struct Link {
    client: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
    /// Cuts that were made before it existed.
    cuts: u64,
    ended: AtomicBool,
    /// Bytes that passed under the trouble of this number.
    passed: Mutex<(u64, u64)>,
    /// It is half closed: what comes up is swallowed.
    half_closed: AtomicBool,
}

/// A connection that has ended, in whatever way.
struct Ended;

/// What is known of a piece that is carried.
#[derive(Clone, Copy)]
struct Piece {
    /// Where the middle of a TLS record is in it.
    middle: Option<usize>,
    /// It was not sent together with the one before.
    fresh: bool,
}

impl Link {
    fn new(client: TcpStream, server: TcpStream, shared: Arc<Shared>) -> Link {
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(TICK)).expect("the time is not zero");
            stream.set_write_timeout(Some(TICK)).expect("the time is not zero");
            stream.set_nodelay(true).expect("it is a TCP socket");
        }
        Link {
            client,
            server,
            cuts: shared.cuts.load(Ordering::SeqCst),
            shared,
            ended: AtomicBool::new(false),
            passed: Mutex::default(),
            half_closed: AtomicBool::new(false),
        }
    }

    /// Carries bytes in one direction until the connection ends.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream, down: bool) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut records = Records::default();
        let mut fresh = true;
        while self.check().is_ok() {
            let waiting = Instant::now();
            let carried = match from.read(&mut buffer) {
                Ok(0) => {
                    // The other side may have gone already.
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(length) => {
                    let piece = &buffer[..length];
                    // What had been under way together with the piece before is late together with it.
                    fresh |= waiting.elapsed() > TOGETHER;
                    let middle = down.then(|| records.follow(piece)).flatten();
                    self.carry(piece, to, Piece { middle, fresh })
                        .inspect(|()| fresh = false)
                }
                Err(error) if waits(&error) => {
                    fresh = true;
                    Ok(())
                }
                Err(_) => Err(Ended),
            };
            if carried.is_err() {
                return self.reset();
            }
        }
        self.reset();
    }

    /// Whether the connection goes on.
    fn check(&self) -> Result<(), Ended> {
        if self.ended.load(Ordering::SeqCst) || self.shared.ended.load(Ordering::SeqCst) {
            return Err(Ended);
        }
        if self.shared.cuts.load(Ordering::SeqCst) > self.cuts {
            if !self.ended.swap(true, Ordering::SeqCst) {
                self.shared.struck.fetch_add(1, Ordering::SeqCst);
            }
            return Err(Ended);
        }
        Ok(())
    }

    fn reset(&self) {
        self.ended.store(true, Ordering::SeqCst);
        reset_when_closed(&self.client);
        reset_when_closed(&self.server);
    }

    /// Carries one piece, with whatever trouble there is while it is on its way.
    fn carry(&self, mut piece: &[u8], to: &TcpStream, known: Piece) -> Result<(), Ended> {
        let whole = piece.len();
        while !piece.is_empty() {
            self.check()?;
            if self.half_closed.load(Ordering::SeqCst) {
                return Ok(());
            }
            let state = self.shared.state();
            let middle = known.middle.and_then(|middle| middle.checked_sub(whole - piece.len()));
            let length = self.may_pass(piece.len(), state, Piece { middle, ..known })?;
            let (now, later) = piece.split_at(length);
            // First: the answer to these bytes may come back before this thread goes on.
            self.note_passed(now.len() as u64, state.number);
            self.write(now, to)?;
            piece = later;
        }
        Ok(())
    }

    /// How many of the next bytes pass, after however long that takes.
    fn may_pass(&self, bytes: usize, state: State, known: Piece) -> Result<usize, Ended> {
        let number = state.number;
        let left = match state.trouble {
            None | Some(Trouble::Refuse) => bytes,
            Some(Trouble::Latency(pause)) => {
                let pause = if known.fresh { pause } else { Duration::ZERO };
                self.rest(pause, number)?;
                bytes
            }
            Some(Trouble::Trickle { every }) => {
                self.rest(every, number)?;
                1
            }
            Some(Trouble::CutRecord) => known.middle.unwrap_or(bytes),
            Some(Trouble::Reset { after } | Trouble::HalfClose { after } | Trouble::BlackHole { after }) => {
                self.allowance(after, number)
            }
        };
        match state.trouble {
            Some(Trouble::Reset { .. } | Trouble::CutRecord) if left == 0 => Err(self.struck(number)),
            Some(Trouble::HalfClose { .. }) if left == 0 => {
                self.half_close(number);
                Ok(0)
            }
            Some(Trouble::BlackHole { .. }) if left == 0 => {
                self.rest(TICK, number)?;
                Ok(0)
            }
            _ => Ok(left.min(bytes)),
        }
    }

    fn struck(&self, number: u64) -> Ended {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.shared.strike(number);
        }
        Ended
    }

    fn half_close(&self, number: u64) {
        if !self.half_closed.swap(true, Ordering::SeqCst) {
            self.shared.strike(number);
            // A client that has gone needs no end any more.
            let _ = self.client.shutdown(Shutdown::Write);
        }
    }

    /// How many more bytes may pass before the trouble `number` strikes.
    fn allowance(&self, after: u64, number: u64) -> usize {
        let passed = *self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = if passed.1 == number { passed.0 } else { 0 };
        after.saturating_sub(passed) as usize
    }

    fn note_passed(&self, bytes: u64, number: u64) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        *passed = match *passed {
            (before, same) if same == number => (before + bytes, number),
            _ => (bytes, number),
        };
    }

    /// Waits, at most as long as the trouble lasts.
    fn rest(&self, pause: Duration, number: u64) -> Result<(), Ended> {
        let end = Instant::now() + pause;
        while Instant::now() < end && self.shared.state().number == number {
            self.check()?;
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn write(&self, mut bytes: &[u8], mut to: &TcpStream) -> Result<(), Ended> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if waits(&error) => self.check()?,
                Err(_) => return Err(Ended),
            }
        }
        Ok(())
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
