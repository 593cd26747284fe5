//! A proxy on loopback between pgkeep and a server: it alters answers, or holds a question back until it is let through.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use pgkeep_testkit::fixture::Shop;
use pgkeep_testkit::{Run, wait};

/// Runs a command against the shop's cluster through a proxy.
pub fn through<const N: usize>(shop: &Shop, port: u16, args: [&str; N]) -> Run {
    let connection = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable");
    shop.run(args).env("PGKEEP_CLUSTER__SHOP__CONNECTION", connection)
}

/// A proxy that replaces bytes of the server's answers by as many others.
pub fn replacing(server: u16, from: &[u8], to: &[u8]) -> u16 {
    assert_eq!(from.len(), to.len());
    let (from, to) = (from.to_owned(), to.to_owned());
    proxy(
        server,
        |_| true,
        move |answer| {
            for at in 0..(answer.len() + 1).saturating_sub(from.len()) {
                if answer[at..].starts_with(&from) {
                    answer[at..at + to.len()].copy_from_slice(&to);
                }
            }
        },
    )
}

/// Holds back the first question that contains certain bytes, and whatever comes after it on that connection.
pub struct Gate {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Watching,
    Holding,
    Open,
    Cut,
}

impl Gate {
    /// A gate before `server`.
    pub fn before(server: u16, question: &'static str) -> Gate {
        let state = Arc::new((Mutex::new(State::Watching), Condvar::new()));
        let seen = Arc::clone(&state);
        let asks = move |bytes: &[u8]| bytes.windows(question.len()).any(|part| part == question.as_bytes());
        let lets_through = move |bytes: &[u8]| {
            let (state, changed) = &*seen;
            let mut now = state.lock().unwrap();
            if *now == State::Watching && asks(bytes) {
                *now = State::Holding;
                now = changed.wait_while(now, |now| *now == State::Holding).unwrap();
                return *now == State::Open;
            }
            true
        };
        Gate {
            port: proxy(server, lets_through, |_| ()),
            state,
        }
    }

    /// Where to connect instead of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the question was asked.
    pub fn wait(&self) {
        wait::until("the question", wait::LIMIT, || {
            (*self.state.0.lock().unwrap() == State::Holding).then_some(())
        });
    }

    /// Lets it through.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Ends the connection instead.
    pub fn cut(&self) {
        self.set(State::Cut);
    }

    fn set(&self, state: State) {
        *self.state.0.lock().unwrap() = state;
        self.state.1.notify_all();
    }
}

/// Forwards connections. Questions go on while `lets_through` says so, else the connection ends.
fn proxy(
    server: u16,
    lets_through: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    alter: impl Fn(&mut [u8]) + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (lets_through, alter) = (Arc::new(lets_through), Arc::new(alter));
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            // A server that is down is seen as a connection that ends.
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else {
                continue;
            };
            let (up, down) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            let (lets_through, alter) = (Arc::clone(&lets_through), Arc::clone(&alter));
            std::thread::spawn(move || forward(client, up, |bytes| lets_through(bytes)));
            std::thread::spawn(move || {
                forward(upstream, down, |bytes| {
                    alter(bytes);
                    true
                })
            });
        }
    });
    port
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&mut [u8]) -> bool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !pass(&mut buffer[..read]) {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Whoever still reads shall see the end; a peer that is gone already needs none.
    let _ = to.shutdown(Shutdown::Both);
}
